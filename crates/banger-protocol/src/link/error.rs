//! How the link fails.

use std::io;
use std::sync::Arc;

/// Why a link ended. After it every stream fails, and only a new connection helps.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// The pipe failed.
    #[error("the guest link failed")]
    Io(#[source] Arc<io::Error>),
    /// The pipe ended: the VMM is gone, or its socket was taken over.
    #[error("the guest link was closed by the machine")]
    Eof,
    /// The other end broke a rule.
    #[error("the other end of the guest link broke its rules")]
    Violation(#[from] Violation),
    /// The agent dropped all streams after a framing error.
    #[error("the agent lost track of the guest link")]
    Goodbye,
    /// The agent speaks no generation that we know.
    #[error("the agent speaks generation {agent}, this side {lowest} to {highest}")]
    Generation {
        agent: u16,
        lowest: u16,
        highest: u16,
    },
    /// The host said hello again.
    #[error("the host opened a new guest link")]
    Replaced,
    /// This side let go of the link.
    #[error("the guest link was closed")]
    Closed,
    /// [`super::MAX_STREAMS`] are open.
    #[error("too many streams are open on the guest link")]
    TooManyStreams,
    /// The request is longer than [`super::MAX_REQUEST`].
    #[error("the request has {length} bytes, the most is {most}")]
    RequestTooLong { length: usize, most: u32 },
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        LinkError::Io(Arc::new(error))
    }
}

/// What bytes of the other end may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("frame of kind {kind:?} with {length} bytes")]
    Length { kind: super::Kind, length: u32 },
    #[error("frame of kind {kind:?} on stream {stream}")]
    Stream { kind: super::Kind, stream: u32 },
    #[error("frame of kind {0:?} in the wrong direction")]
    Direction(super::Kind),
    #[error("frame of kind {0:?} that was never finished")]
    Unfinished(super::Kind),
    #[error("hello without its magic number")]
    Magic,
    #[error("window of {0} bytes")]
    Window(u32),
    #[error("more data than credit on stream {0}")]
    Credit(u32),
    #[error("data after the end of stream {0}")]
    AfterFin(u32),
    #[error("request of {0} bytes")]
    Request(u32),
}

/// Why one side gave up a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// It was dropped.
    Dropped,
    /// The agent has too many streams open.
    Refused,
    /// A later generation's reason.
    Other(u32),
}

impl ResetCode {
    pub fn number(self) -> u32 {
        match self {
            ResetCode::Dropped => 0,
            ResetCode::Refused => 1,
            ResetCode::Other(number) => number,
        }
    }

    pub fn from_number(number: u32) -> Self {
        match number {
            0 => ResetCode::Dropped,
            1 => ResetCode::Refused,
            other => ResetCode::Other(other),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the stream ended with the guest link")]
struct LinkLost(#[source] LinkError);

#[derive(Debug, thiserror::Error)]
#[error("the other end dropped the stream ({0:?})")]
struct StreamReset(ResetCode);

pub(super) fn link_lost(reason: &LinkError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, LinkLost(reason.clone()))
}

pub(super) fn stream_reset(code: ResetCode) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, StreamReset(code))
}

pub(super) fn broken_pipe() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// Whether a stream failed because its link ended, rather than by its other end's choice.
pub fn is_link_lost(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<LinkLost>())
}
