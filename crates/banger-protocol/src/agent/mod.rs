//! What the host asks of the agent.
//!
//! Each stream of the guest link carries one [`OpenRequest`] as JSON. The agent answers with one
//! line of JSON, an [`AgentReply`], and then whatever the request is about: frames of exec, lines
//! of events, or nothing. Fields and variants are only ever added, and unknown fields are ignored:
//! a restored VM carries the agent of its day.

mod ask;
mod boot;
mod main_process;

pub use ask::{AskError, REPLY_LIMIT, ask, read_reply};
pub use boot::{BootConfig, BootReport, Disks, Init, Phase};
pub use main_process::{MainLog, MainStart, MainState, MainStatus};

use serde::{Deserialize, Serialize};

use crate::build::BuildInfo;
use crate::bytes::ByteString;

/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "banger.agent.0";

/// vsock port, below 1024, so that only the guest's root can listen there.
pub const VSOCK_PORT: u32 = 842;

/// What a stream is opened for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum OpenRequest {
    /// Becomes a machine; answered by [`BootReport`] when it is ready. Asked again, it answers
    /// with the same report.
    Boot(Box<BootConfig>),
    /// Answered by [`Health`] at any time.
    Health,
    /// Answered by [`ExecStarted`], then frames of [`crate::exec`].
    Exec(ProcessSpec),
    /// The same for a process that runs already, or whose exit nobody has read.
    ExecAttach { exec: u64 },
    /// Answered by [`ExecList`].
    ExecList,
    /// Answered by [`MainStatus`], and, where it is attached, followed by frames of exec.
    MainStart(MainStart),
    /// Answered by [`MainStatus`], then frames of exec. `replay` sends the kept output first.
    MainAttach {
        #[serde(default)]
        replay: bool,
    },
    /// Answered by [`MainStatus`].
    MainStatus,
    /// Answered by [`MainStatus`], then the frames stdout, stderr and lost of the kept output.
    MainLog(MainLog),
    /// Sets the guest's clock.
    Time {
        /// Nanoseconds since 1970.
        realtime_ns: u64,
    },
    /// Answered when it has begun; the machine ends after everything is written.
    Shutdown(Shutdown),
    /// Answered by [`Nothing`], then one [`AgentEvent`] a line.
    Events,
    /// Answered by [`Stats`].
    Stats,
}

/// First line of the agent on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentReply<T> {
    Ok(T),
    Error(AgentError),
}

/// The agent could not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    pub kind: AgentErrorKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentErrorKind {
    /// The request is malformed, or of a later generation.
    InvalidRequest,
    /// There is no such process.
    NotFound,
    /// The machine is not booted yet, or `main` runs already.
    WrongState,
    /// Booting failed; the agent has no root file system.
    BootFailed,
    /// The base differs from the one the writable disk was made for.
    BaseMismatch,
    /// A bound of the agent was reached.
    TooMany,
    /// The system refused.
    System,
    /// A later generation's reason.
    #[serde(other)]
    Other,
}

impl AgentError {
    pub fn new(kind: AgentErrorKind, message: impl Into<String>) -> Self {
        AgentError {
            kind,
            message: message.into(),
        }
    }
}

/// An answer without content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// A process to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; empty for the user's login shell.
    #[serde(default)]
    pub argv: Vec<ByteString>,
    /// The whole environment as `NAME=value`. The agent adds what is missing of PATH, HOME, USER,
    /// LOGNAME, SHELL and, on a terminal, TERM.
    #[serde(default)]
    pub env: Vec<ByteString>,
    /// `user`, `uid`, `user:group` or `uid:gid`; root by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// By default `/`, and the home directory for a login shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<ByteString>,
    /// Create `workdir`, owned by the user, where it is missing: what WORKDIR of an image means.
    #[serde(default)]
    pub make_workdir: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// stdin will be sent; otherwise it is /dev/null.
    #[serde(default)]
    pub stdin: bool,
}

/// A pseudo-terminal for the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
    /// TERM, unless the environment has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<ByteString>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Unique within one boot; names it to [`OpenRequest::ExecAttach`].
    pub exec: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecList {
    pub execs: Vec<ExecEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEntry {
    pub exec: u64,
    pub pid: u32,
    pub argv: Vec<ByteString>,
    /// A stream is joined to it.
    pub attached: bool,
    /// It has ended; its status waits to be read.
    pub exited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub state: AgentState,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    pub build: BuildInfo,
    /// Once it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<BootReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// For [`OpenRequest::Boot`].
    Waiting,
    Ready,
    /// Booting failed.
    Failed,
    GoingDown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Down {
    PowerOff,
    Reboot,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    pub how: Down,
    /// Milliseconds that processes, or the image's init, have before they are killed.
    pub grace_ms: u64,
}

/// Something happened in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// First line, and whenever `main` started or ended.
    Main { status: MainStatus },
    /// The guest is about to end, by our request or its own.
    GoingDown { how: Down },
    /// A later generation's event.
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub uptime_ms: u64,
    pub memory_total_kib: u64,
    pub memory_available_kib: u64,
    /// Of the writable disk.
    pub disk_total_kib: u64,
    pub disk_available_kib: u64,
    /// One, five and fifteen minutes, in hundredths.
    pub load_hundredths: [u32; 3],
    pub processes: u32,
}
