//! Why a program did not do what was asked of it.

use std::ffi::OsString;
use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

/// Longest command line quoted in a message, in bytes.
const COMMAND_LINE_LIMIT: usize = 400;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{program} is not installed")]
    NotFound { program: String },
    #[error("cannot start `{command}`")]
    Start {
        command: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{command}` {ending}{}", quoted_tail(stderr))]
    Failed {
        command: String,
        ending: Ending,
        /// The last lines of standard error, printable, possibly empty.
        stderr: String,
    },
    #[error("`{command}` did not finish within {after:?}")]
    TimedOut { command: String, after: Duration },
    #[error("`{command}` printed more than {limit} bytes")]
    TooMuchOutput { command: String, limit: usize },
    #[error("cannot read the output of `{command}`")]
    Io {
        command: String,
        #[source]
        source: std::io::Error,
    },
}

impl CommandError {
    /// The exit code, where the program ended by itself.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed {
                ending: Ending::Code(code),
                ..
            } => Some(*code),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Code(i32),
    Signal(i32),
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            // wait(2) without WUNTRACED reports nothing else.
            (None, None) => Self::Code(-1),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "failed with exit status {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

fn quoted_tail(stderr: &str) -> String {
    if stderr.is_empty() {
        return String::new();
    }
    format!(": {}", stderr.trim_end())
}

/// Renders an argument vector as a shell would accept it.
pub(super) fn render_argv<'a>(words: impl Iterator<Item = &'a OsString>) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let word = word.to_string_lossy();
        let plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./=:,@+%^".contains(c));
        if plain {
            line.push_str(&word);
        } else {
            line.push('\'');
            for c in word.chars() {
                match c {
                    '\'' => line.push_str("'\\''"),
                    c if c.is_control() => line.extend(c.escape_default()),
                    c => line.push(c),
                }
            }
            line.push('\'');
        }
        if line.len() > COMMAND_LINE_LIMIT {
            let mut end = COMMAND_LINE_LIMIT;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}
