//! A process that the agent runs: its streams, and whoever is joined to them.
//!
//! ```text
//!            ┌─ output (stdout) ─┐                ┌─ outbox ─► attachment ─► link stream
//!  process ──┤                   ├─► state ───────┤
//!            └─ output (stderr) ─┘   backlogs,    └─ log of main
//!            ◄─ input ◄─ queue ◄──── credit ◄──── attachment ◄─ frames of the client
//! ```
//!
//! One task reads each output, one writes stdin, one serves the attachment; they meet in
//! [`State`], whose lock is held for moments. An output is read only while its own credit lasts or
//! while nobody is joined, so no channel waits for another, and nothing is unbounded.
//!
//! A process outlives its attachments. Without one its output goes to a bounded backlog, and its
//! exit status waits; a new one takes the old one's place.

mod attachment;
mod backlog;
mod environment;
mod input;
mod log;
mod output;
mod pty;
mod spawn;
mod state;
mod table;

pub use attachment::{Left, attach};
pub use log::{Log, Part};
pub use table::{Limits, Table};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_protocol::agent::ProcessSpec;
use banger_protocol::bytes::ByteString;
use banger_protocol::exec::{Channel, ExitStatus, StartFailure};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::reaper::Reaper;
use crate::user::Accounts;
use state::State;
use std::os::fd::OwnedFd;

/// Between SIGHUP and SIGKILL, when a client has hung up.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

pub struct Process {
    /// Names it to the host; 0 is `main`.
    pub id: u64,
    pub pid: i32,
    pub argv: Vec<ByteString>,
    terminal: Option<AsyncFd<OwnedFd>>,
    state: Mutex<State>,
    /// An output may go on: credit came, a joiner went, or the process ended.
    room: [Notify; 2],
    stdin_ready: Notify,
    /// More output was logged, or the last of it.
    logged: Notify,
}

/// Whether the whole output of a process is kept for later readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    Log,
}

fn index(channel: Channel) -> usize {
    match channel {
        Channel::Stdout => 0,
        Channel::Stderr => 1,
    }
}

impl Process {
    /// Starts it. `on_exit` is called once it has ended and been reaped.
    pub fn start(
        id: u64,
        spec: &ProcessSpec,
        accounts: &Accounts,
        reaper: &Reaper,
        keep: Keep,
        on_exit: impl FnOnce(&Arc<Process>) + Send + 'static,
    ) -> Result<Arc<Process>, StartFailure> {
        let ((pid, streams), exit) = reaper.start(|| {
            let spawned = spawn::spawn(spec, accounts)?;
            Ok((spawned.pid, (spawned.pid, spawned.streams)))
        })?;
        let watch = |fd: OwnedFd| {
            crate::watch::watch(fd).map_err(|error| {
                let message = format!("cannot watch a stream of the process: {error}");
                StartFailure::new(
                    banger_protocol::exec::StartFailureKind::NoResources,
                    message,
                )
            })
        };
        let outputs = match (&streams.terminal, streams.stdout, streams.stderr) {
            (Some(_), ..) => None,
            (None, Some(stdout), Some(stderr)) => Some((watch(stdout)?, watch(stderr)?)),
            _ => None,
        };
        let stdin = streams.stdin.map(watch).transpose()?;
        let terminal = streams.terminal.map(watch).transpose()?;
        let count = if terminal.is_some() { 1 } else { 2 };
        let process = Arc::new(Process {
            id,
            pid,
            argv: spec.argv.clone(),
            terminal,
            state: Mutex::new(State::new(count, spec.stdin, keep)),
            room: [Notify::new(), Notify::new()],
            stdin_ready: Notify::new(),
            logged: Notify::new(),
        });
        if let Some((stdout, stderr)) = outputs {
            tokio::spawn(output::run_pipe(
                Arc::clone(&process),
                Channel::Stdout,
                stdout,
            ));
            tokio::spawn(output::run_pipe(
                Arc::clone(&process),
                Channel::Stderr,
                stderr,
            ));
            if let Some(stdin) = stdin {
                tokio::spawn(input::run_pipe(Arc::clone(&process), stdin));
            }
        } else {
            tokio::spawn(output::run_terminal(Arc::clone(&process)));
            tokio::spawn(input::run_terminal(Arc::clone(&process)));
        }
        let ended = Arc::clone(&process);
        tokio::spawn(async move {
            let status = exit.await.unwrap_or(ExitStatus::Code(255));
            ended.state().ended(status);
            ended.wake_outputs();
            on_exit(&ended);
        });
        Ok(process)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_outputs(&self) {
        self.room.iter().for_each(Notify::notify_one);
        self.stdin_ready.notify_one();
        self.logged.notify_waiters();
    }

    /// How it ended, once it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state().exited.clone()
    }

    pub fn is_attached(&self) -> bool {
        self.state().is_attached()
    }

    /// Sends a signal to its process group while it lives. Numbers that are no signals are
    /// ignored: the client may be of another system.
    pub fn signal(&self, number: u32) {
        let Ok(number @ 1..=64) = i32::try_from(number) else {
            return;
        };
        let state = self.state();
        if state.exited.is_none() {
            // SAFETY: no memory is involved. The group is ours: its leader is not reaped.
            unsafe { libc::kill(-self.pid, number) };
        }
    }

    /// The client is gone for good: SIGHUP, and SIGKILL where that does not help.
    pub fn hang_up(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if std::mem::replace(&mut state.hung_up, true) {
                return;
            }
            state.detach(None);
        }
        self.wake_outputs();
        self.signal(libc::SIGHUP as u32);
        // A stopped process would not notice.
        self.signal(libc::SIGCONT as u32);
        let process = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(HANGUP_GRACE).await;
            process.signal(libc::SIGKILL as u32);
        });
    }

    fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            // A terminal whose process is gone has no size.
            let _ = pty::resize(terminal.get_ref(), rows, columns);
        }
    }

    /// Bytes of output so far, where a log is kept.
    pub fn log_end(&self) -> u64 {
        self.state().log.as_ref().map_or(0, Log::end)
    }

    pub fn log_tail(&self, lines: u32) -> u64 {
        self.state().log.as_ref().map_or(0, |log| log.tail(lines))
    }

    /// The next part of the log; waits for one where `follow` says so and there may be more.
    pub async fn log_part(&self, place: u64, most: usize, follow: bool) -> Option<Part> {
        loop {
            let logged = self.logged.notified();
            tokio::pin!(logged);
            logged.as_mut().enable();
            {
                let state = self.state();
                let part = state.log.as_ref().and_then(|log| log.read(place, most));
                if part.is_some() || !follow || state.is_over() {
                    return part;
                }
            }
            logged.await;
        }
    }
}
