//! How a run of the CLI ends, and what the user reads when it ends badly.
//!
//! ```text
//! 0          done
//! n          `run` and `exec`: what the command exited with; 128 + n where signal n ended it;
//!            126 and 127 where it could not be executed or was not found, as in a shell
//! 2          the command line cannot be understood
//! 100..=125  banger's own failure, one number per kind (`banger_protocol::error::ErrorKind`)
//! 129, 130,  ended by a closed terminal, Ctrl-C or SIGTERM: 128 + n, and the shell sees a death
//! 143        by that signal
//! 141        whoever read the output went away (`banger vm list | head -0`)
//! ```
//!
//! A command may exit with any of these numbers itself. What tells them apart is stderr: banger's
//! own failures begin with `banger: `; with `--json` the last line is `{"error": …}` for them and
//! `{"exit": …}` for a command that ran. `docs/exit-codes.md` tells users all of it.

use std::io::{self, Write};

use banger_protocol::error::{ApiError, ErrorKind};
use serde::Serialize;

/// Exit code where the reader of the output went away: 128 + SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;
/// Exit code of a command line that cannot be understood.
pub const USAGE: u8 = 2;

/// Exit code of a command's success, or why it failed.
pub type Outcome = Result<u8, Failure>;

/// Why a run failed.
#[derive(Debug)]
pub enum Failure {
    /// Something to tell the user.
    Error(ApiError),
    /// Something has been told already; only the exit code is left.
    Told(u8),
    /// The reader of stdout went away; it knows.
    BrokenPipe,
    /// Ended by this signal: the user pressed Ctrl-C, or somebody asked us to end.
    Interrupted(i32),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Error(error)
    }
}

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure::Error(ApiError::new(kind, message))
    }

    /// A failed write to stdout.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::BrokenPipe;
        }
        let kind = match error.kind() {
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        let error = ApiError::new(kind, format!("cannot write to stdout: {error}"));
        error.hint("see where stdout leads").into()
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Error(error) => error.kind.exit_code(),
            Failure::Told(code) => *code,
            Failure::BrokenPipe => BROKEN_PIPE,
            Failure::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// Tells the user on stderr. Nothing is told about a broken pipe.
    pub fn report(&self, json: bool) {
        match self {
            Failure::Error(error) => report_error(error, json),
            Failure::Interrupted(_) if !json => tell("banger: interrupted\n"),
            Failure::Interrupted(_) => {
                report_error(&ApiError::new(ErrorKind::Cancelled, "interrupted"), true)
            }
            Failure::Told(_) | Failure::BrokenPipe => {}
        }
    }
}

/// An error in the form of `--json`.
#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a ApiError,
}

/// Writes one error to stderr, as text or as one line of JSON.
pub fn report_error(error: &ApiError, json: bool) {
    let mut error = error.clone();
    if error.hint.is_none() {
        error.hint = error.kind.remedy().map(str::to_owned);
    }
    let error = &error;
    if json {
        if let Ok(line) = serde_json::to_string(&ErrorReport { error }) {
            tell(&(harmless_json(line) + "\n"));
        }
    } else {
        tell(&text(error));
    }
}

/// An error as people read it.
pub fn text(error: &ApiError) -> String {
    let mut text = format!("banger: {}\n", printable(&error.message));
    for detail in &error.details {
        for line in detail.lines() {
            text.push_str(&format!("  {}\n", printable(line)));
        }
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {}\n", printable(hint)));
    }
    text
}

/// Writes talk to stderr, without what a terminal would obey; a closed stderr is nobody's loss.
pub fn tell(text: &str) {
    let text: String = text
        .split_inclusive('\n')
        .flat_map(|line| match line.strip_suffix('\n') {
            Some(line) => [printable(line), "\n".to_owned()],
            None => [printable(line), String::new()],
        })
        .collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Text from elsewhere (images, guests, registries) without what a terminal would obey.
pub fn printable(text: impl Into<String>) -> String {
    let text = text.into();
    if !text.chars().any(|c| is_obeyed(c) && c != '\t') {
        return text;
    }
    text.chars()
        .map(|c| match c {
            '\t' => '\t',
            '\n' | '\r' => ' ',
            c if is_obeyed(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Only printable ASCII, as nearly all text is.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// JSON whose strings hold nothing a terminal would obey. The encoder escapes the lower control
/// characters only, and there are more from 127 to 159.
pub fn harmless_json(json: String) -> String {
    if !json.chars().any(|c| is_obeyed(c) && c != '\n') {
        return json;
    }
    json.chars()
        .map(|c| match c {
            '\n' => '\n'.to_string(),
            c if is_obeyed(c) => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

/// Control characters, and those that turn the direction of writing, so that a text reads as
/// another one.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_message_details_and_hint() {
        let error = ApiError::new(ErrorKind::BootFailed, "web did not boot")
            .hint("banger vm logs --console web")
            .details(vec!["panic: no root\nend".to_owned()]);
        assert_eq!(
            text(&error),
            "banger: web did not boot\n  panic: no root\n  end\nhint: banger vm logs --console web\n"
        );
        assert_eq!(Failure::from(error).exit_code(), 117);
    }

    #[test]
    fn hostile_text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\td"), "a\u{fffd}[2Jb c\td");
        assert_eq!(
            printable("\u{9b}2J \u{202e}cod.exe"),
            "\u{fffd}2J \u{fffd}cod.exe"
        );
        assert_eq!(printable("é 漢"), "é 漢");
    }

    #[test]
    fn json_keeps_its_meaning_and_drives_no_terminal() {
        let value = serde_json::json!({"a\u{9b}2J": ["\x1b[2J\n\u{7f}", "é\u{202e}"]});
        for json in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let json = harmless_json(json);
            assert!(!json.chars().any(|c| is_obeyed(c) && c != '\n'), "{json:?}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&json).unwrap(),
                value
            );
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_to_tell() {
        let failure = Failure::output(&io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit_code(), BROKEN_PIPE);
        assert!(matches!(failure, Failure::BrokenPipe));
    }
}
