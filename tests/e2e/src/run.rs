//! One run of a program: its exit code and what it printed.

use std::fmt;
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command of these tests takes longer, unless something hangs.
const LIMIT: Duration = Duration::from_secs(240);

pub struct Run {
    shown: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Runs to the end with `stdin`; a program that hangs is killed and fails the test.
    pub fn of(command: &mut Command, stdin: &[u8]) -> Run {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {shown}: {error}"));
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        let writer = thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = input.write_all(&stdin);
        });
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let start = Instant::now();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            let hung = ended.recv_timeout(LIMIT).is_err();
            if hung {
                let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
            }
            hung
        });
        let output = child.wait_with_output().unwrap();
        let _ = done.send(());
        let hung = watchdog.join().unwrap();
        let _ = writer.join();
        let run = Run {
            shown,
            status: output.status,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!hung, "hung for {:?}: {run}", start.elapsed());
        run
    }

    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// It succeeded; returns it for what it printed.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert!(self.status.success(), "{self}");
        self
    }

    /// It failed with this exit code and said this on stderr.
    #[track_caller]
    pub fn fails(self, code: i32, says: &str) -> Run {
        assert_eq!(self.code(), code, "{self}");
        assert!(
            self.stderr.contains(says),
            "it does not say {says:?}: {self}"
        );
        self
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4000)]);
        write!(
            f,
            "{}\n{}\nstdout: {stdout}\nstderr: {}",
            self.shown, self.status, self.stderr
        )
    }
}
