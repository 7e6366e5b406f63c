//! One run of the CLI, with an environment of its own.

use std::fmt;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The CLI in the banger below `root`: nothing of the test's own environment reaches it, and no
/// bangerd is found.
pub fn banger(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
    command
        .args(arguments)
        .current_dir(root)
        .env_clear()
        .env("BANGER_ROOT", root)
        .env("HOME", root)
        .env("PATH", "/usr/bin:/bin")
        .env("BANGERD", "/nonexistent/bangerd")
        .stdin(Stdio::null());
    command
}

/// How it ended and what it said.
pub struct Run {
    pub output: Output,
    line: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Run {
        let line = format!("{command:?}");
        let output = command.output().unwrap();
        Run { output, line }
    }

    /// With these bytes on stdin.
    pub fn with_input(command: &mut Command, input: &[u8]) -> Run {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        Run { output, line }
    }

    /// The exit code; 128 + n where signal n ended it, as a shell says it.
    pub fn code(&self) -> i32 {
        let status = self.output.status;
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// stdout as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The last line of stderr as JSON.
    pub fn last_json(&self) -> serde_json::Value {
        let stderr = self.stderr();
        let last = stderr.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code(), 0, "{self}");
        self
    }

    /// Ended with `code`, and said `word` on stderr.
    #[track_caller]
    pub fn fails(self, code: i32, word: &str) -> Run {
        assert_eq!(self.code(), code, "{self}");
        assert!(self.stderr().contains(word), "not said: {word:?}: {self}");
        self
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        write!(
            f,
            "{}\nended with {}\nstdout: {}\nstderr: {}",
            self.line,
            self.code(),
            shown(&self.output.stdout),
            shown(&self.output.stderr)
        )
    }
}
