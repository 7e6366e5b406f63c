//! How a process ended, or why it never began.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In JSON `{"code": 0}`, `{"signal": 9}` or `{"failed": {"kind": …, "message": …}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was never started.
    Failed(StartFailure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartFailure {
    pub kind: StartFailureKind,
    /// What could not be done, and why.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartFailureKind {
    /// There is no such program; 127 in a shell.
    NotFound,
    /// It is not a program, or may not be executed; 126 in a shell.
    NotExecutable,
    /// The working directory cannot be entered.
    BadWorkdir,
    /// There is no such user or group.
    BadUser,
    /// The arguments cannot be passed: empty, too long, or with a zero byte.
    BadArguments,
    /// The guest is out of processes, memory or terminals.
    NoResources,
    /// A later generation's reason.
    #[serde(other)]
    Other,
}

/// Longest message that is passed on.
const MAX_MESSAGE: usize = 1024;

impl StartFailure {
    /// Cuts the message at a bound.
    pub fn new(kind: StartFailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = (0..=MAX_MESSAGE.min(message.len()))
            .rev()
            .find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        StartFailure { kind, message }
    }
}

impl ExitStatus {
    /// What a shell's `$?` would be; `None` where the command cannot be blamed.
    pub fn shell_code(&self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(*code),
            ExitStatus::Signal(signal) => Some(128i32.saturating_add(*signal)),
            ExitStatus::Failed(failure) => match failure.kind {
                StartFailureKind::NotFound => Some(127),
                StartFailureKind::NotExecutable => Some(126),
                _ => None,
            },
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // A map with string keys cannot fail; the fallback is a valid status all the same.
        serde_json::to_vec(self).unwrap_or_else(|_| br#"{"code":255}"#.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        let failed = |kind| ExitStatus::Failed(StartFailure::new(kind, "x"));
        assert_eq!(ExitStatus::Code(3).shell_code(), Some(3));
        assert_eq!(ExitStatus::Signal(15).shell_code(), Some(143));
        assert_eq!(failed(StartFailureKind::NotFound).shell_code(), Some(127));
        assert_eq!(
            failed(StartFailureKind::NotExecutable).shell_code(),
            Some(126)
        );
        assert_eq!(failed(StartFailureKind::BadUser).shell_code(), None);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let failure = StartFailure::new(StartFailureKind::Other, "é".repeat(1000));
        assert_eq!(failure.message.len(), MAX_MESSAGE);
        // The worst case of JSON quoting still fits the frame.
        let quoted = StartFailure::new(StartFailureKind::Other, "\u{1}".repeat(5000));
        let json = ExitStatus::Failed(quoted).to_json();
        assert!(json.len() <= super::super::Kind::Exit.lengths().1);
    }
}
