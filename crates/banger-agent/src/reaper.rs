//! Who waits for children.
//!
//! Starting a process and noting who wants its status happen under one lock, which reaping takes
//! too: no status can come before its receiver. Process 1 also reaps what nobody asked for.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_protocol::exec::ExitStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

pub struct Reaper {
    waiting: Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>,
    /// Process 1 reaps orphans too.
    all: bool,
}

/// What was seen while reaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    Some,
    None,
}

impl Reaper {
    pub fn new(all: bool) -> Self {
        Reaper {
            waiting: Mutex::new(HashMap::new()),
            all,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<ExitStatus>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `start`, which returns a child's pid and something else, and arranges for its status.
    pub fn start<T, E>(
        &self,
        start: impl FnOnce() -> Result<(i32, T), E>,
    ) -> Result<(T, oneshot::Receiver<ExitStatus>), E> {
        let mut waiting = self.waiting();
        let (pid, value) = start()?;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(pid, sender);
        Ok((value, receiver))
    }

    /// Collects all that have ended.
    pub fn reap(&self) -> Children {
        let mut waiting = self.waiting();
        if self.all {
            loop {
                match wait(-1) {
                    Wait::Ended(pid, status) => {
                        if let Some(sender) = waiting.remove(&pid) {
                            // Nobody may be listening any more.
                            let _ = sender.send(status);
                        }
                    }
                    Wait::Running => return Children::Some,
                    Wait::Nothing => return Children::None,
                }
            }
        }
        let ended: Vec<_> = waiting
            .keys()
            .filter_map(|pid| match wait(*pid) {
                Wait::Ended(pid, status) => Some((pid, status)),
                Wait::Running => None,
                // Somebody else took it; its status is not known.
                Wait::Nothing => Some((*pid, ExitStatus::Code(255))),
            })
            .collect();
        for (pid, status) in ended {
            if let Some(sender) = waiting.remove(&pid) {
                let _ = sender.send(status);
            }
        }
        if waiting.is_empty() {
            Children::None
        } else {
            Children::Some
        }
    }

    /// Reaps whenever a child ends, for ever.
    pub async fn run(self: Arc<Self>) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        self.reap();
        while ended.recv().await.is_some() {
            self.reap();
        }
        Ok(())
    }
}

enum Wait {
    Ended(i32, ExitStatus),
    Running,
    Nothing,
}

fn wait(pid: i32) -> Wait {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours to write to.
        let result = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        return match result {
            0 => Wait::Running,
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            -1 => Wait::Nothing,
            pid if libc::WIFSIGNALED(status) => {
                Wait::Ended(pid, ExitStatus::Signal(libc::WTERMSIG(status)))
            }
            pid => Wait::Ended(pid, ExitStatus::Code(libc::WEXITSTATUS(status))),
        };
    }
}
