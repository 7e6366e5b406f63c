//! `main`: the process which a VM is for.

use serde::{Deserialize, Serialize};

use super::ProcessSpec;
use crate::exec::ExitStatus;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainStart {
    pub process: ProcessSpec,
    /// Join this stream to it from its first byte of output.
    #[serde(default)]
    pub attach: bool,
}

/// Which part of the kept output to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainLog {
    /// Go on until `main` has ended.
    #[serde(default)]
    pub follow: bool,
    /// Only the last so many lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// From this byte of all output on: how a reader goes on after a lost link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainStatus {
    #[serde(flatten)]
    pub state: MainState,
    /// Bytes of output so far, kept or not.
    #[serde(default)]
    pub written: u64,
    /// A stream is joined to it.
    #[serde(default)]
    pub attached: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MainState {
    /// Not started in this boot.
    Waiting,
    Running {
        pid: u32,
    },
    Exited {
        status: ExitStatus,
    },
}
