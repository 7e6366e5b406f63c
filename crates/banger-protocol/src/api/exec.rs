//! Exec: a process in the guest, joined to an upgraded connection.
//!
//! The request is ordinary JSON; the answer is `101` with `upgrade:` [`UPGRADE`] and
//! [`GENERATION_HEADER`], after which both sides speak the frames of [`crate::exec`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bytes::ByteString;

/// Protocol named in the `upgrade` header.
pub const UPGRADE: &str = "banger-exec";

/// Response header with the generation of the agent that answers.
pub const GENERATION_HEADER: &str = "banger-agent-generation";

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// Body of `POST /v1/vms/{vm}/exec` and, where it starts a process, of `…/main`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments. Empty means a login shell for exec, and for `main` what the VM's
    /// spec or image says.
    #[serde(default)]
    pub command: Vec<ByteString>,
    /// `NAME=value`, over the image's environment.
    #[serde(default)]
    pub env: Vec<ByteString>,
    /// `user`, `uid`, `user:group` or `uid:gid`; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<ByteString>,
    /// Run on a pseudo-terminal of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// The client will send stdin; otherwise the process reads from /dev/null.
    #[serde(default)]
    pub stdin: bool,
}

/// A process of exec that is known to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exec {
    /// Unique within one boot of the VM.
    pub id: u64,
    pub pid: u32,
    pub command: Vec<ByteString>,
    /// A client is joined to it.
    pub attached: bool,
    /// It has ended and its exit status waits to be read.
    pub exited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecList {
    pub execs: Vec<Exec>,
}
