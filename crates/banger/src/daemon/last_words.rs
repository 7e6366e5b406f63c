//! What a daemon that does not start says about it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitStatus;

use banger_host::layout::Layout;
use banger_protocol::error::{ApiError, ErrorKind};

/// Lines of its log that a failed start shows.
const LOG_LINES: usize = 10;
/// Bytes of the log's end that are looked at for them.
const LOG_BYTES: u64 = 64 << 10;
/// How a program of banger begins its own errors.
const OWN: &str = "bangerd: ";
const HINT: &str = "hint: ";

/// What the daemon prints, so that a failed start can show it: its log file where that can be
/// opened, else a file without a name, because the daemon and not the client decides what its
/// directories look like.
pub struct LastWords {
    file: File,
    /// Where this start's lines begin.
    from: u64,
}

impl LastWords {
    pub fn open(layout: &Layout) -> io::Result<LastWords> {
        let log = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(layout.log());
        if let Ok(file) = log {
            let from = file.metadata()?.len();
            return Ok(LastWords { file, from });
        }
        let name = c"bangerd-start";
        let memory = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(LastWords {
            file: memory.into(),
            from: 0,
        })
    }

    /// A second handle, for the daemon to write to.
    pub fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The last lines of this start.
    pub fn lines(&mut self) -> Vec<String> {
        tail(&mut self.file, self.from)
    }

    /// The daemon's own error, where it ended with one.
    pub fn refusal(&mut self, status: ExitStatus) -> Option<ApiError> {
        refusal(status, &self.lines())
    }
}

/// The last lines of what was written after `from`.
fn tail(file: &mut File, from: u64) -> Vec<String> {
    let mut read = || -> io::Result<Vec<u8>> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// bangerd ends with the exit code of its error's kind, after `bangerd: MESSAGE`, further lines
/// and `hint: …` on stderr. A panic may end with the same number, but says something else.
fn refusal(status: ExitStatus, lines: &[String]) -> Option<ApiError> {
    let code = status.code()?;
    let kind = *ErrorKind::ALL
        .iter()
        .find(|kind| i32::from(kind.exit_code()) == code)?;
    let at = lines.iter().rposition(|line| line.starts_with(OWN))?;
    let message = lines[at].strip_prefix(OWN)?;
    let mut error = ApiError::new(kind, format!("bangerd does not start: {message}"));
    for line in &lines[at + 1..] {
        match line.strip_prefix(HINT) {
            Some(hint) => error.hint = Some(hint.to_owned()),
            None => error.details.push(line.trim_start().to_owned()),
        }
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut file = tempfile::tempfile().unwrap();
        for n in 0..50 {
            writeln!(file, "line {n}").unwrap();
        }
        let lines = tail(&mut file, 0);
        assert_eq!(lines.len(), LOG_LINES);
        assert_eq!(lines.last().unwrap(), "line 49");
    }

    #[test]
    fn refusals() {
        let said = |text: &[&str], code: i32| {
            let lines: Vec<String> = text.iter().map(|line| (*line).to_owned()).collect();
            refusal(ExitStatus::from_raw(code << 8), &lines)
        };
        let error = said(
            &[
                "{\"level\":\"ERROR\"}",
                "bangerd: no room",
                "  more",
                "hint: make room",
            ],
            114,
        )
        .unwrap();
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(error.message, "bangerd does not start: no room");
        assert_eq!(error.details, ["more"]);
        assert_eq!(error.hint.as_deref(), Some("make room"));
        // The code of a panic, which is also that of a kind.
        assert_eq!(said(&["thread 'main' panicked"], 101), None);
        assert_eq!(said(&["bangerd: no such argument"], 2), None);
        assert_eq!(said(&[], 124), None);
        let killed = refusal(ExitStatus::from_raw(9), &["bangerd: x".to_owned()]);
        assert_eq!(killed, None);
    }
}
