//! `main`: the process which the VM is for. One at a time; its output is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_protocol::agent::{
    AgentError, AgentErrorKind, AgentEvent, MainState, MainStatus, ProcessSpec,
};
use banger_protocol::exec::ExitStatus;
use tokio::sync::broadcast;

use crate::process::{Keep, Process};
use crate::reaper::Reaper;
use crate::user::Accounts;

pub struct MainSlot {
    current: Mutex<Current>,
    events: broadcast::Sender<AgentEvent>,
}

enum Current {
    Waiting,
    /// It could not be started.
    Failed(ExitStatus),
    Started(Arc<Process>),
}

impl MainSlot {
    pub fn new(events: broadcast::Sender<AgentEvent>) -> Self {
        MainSlot {
            current: Mutex::new(Current::Waiting),
            events,
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, unless it runs. That it cannot be started is its exit status, not an error.
    pub fn start(
        self: &Arc<Self>,
        spec: &ProcessSpec,
        accounts: &Accounts,
        reaper: &Reaper,
    ) -> Result<(), AgentError> {
        {
            let mut current = self.current();
            if let Current::Started(process) = &*current
                && process.exit_status().is_none()
            {
                return Err(AgentError::new(
                    AgentErrorKind::WrongState,
                    "main runs already",
                ));
            }
            let slot = Arc::clone(self);
            let started = Process::start(0, spec, accounts, reaper, Keep::Log, move |_| {
                slot.announce();
            });
            *current = match started {
                Ok(process) => Current::Started(process),
                Err(failure) => Current::Failed(ExitStatus::Failed(failure)),
            };
        }
        self.announce();
        Ok(())
    }

    pub fn status(&self) -> MainStatus {
        let (state, written, attached) = match &*self.current() {
            Current::Waiting => (MainState::Waiting, 0, false),
            Current::Failed(status) => {
                let status = status.clone();
                (MainState::Exited { status }, 0, false)
            }
            Current::Started(process) => {
                let state = match process.exit_status() {
                    Some(status) => MainState::Exited { status },
                    None => MainState::Running {
                        pid: process.pid.cast_unsigned(),
                    },
                };
                (state, process.log_end(), process.is_attached())
            }
        };
        MainStatus {
            state,
            written,
            attached,
        }
    }

    /// The process, or why there is none to be joined.
    pub fn process(&self) -> Result<Arc<Process>, MainState> {
        match &*self.current() {
            Current::Started(process) => Ok(Arc::clone(process)),
            Current::Waiting => Err(MainState::Waiting),
            Current::Failed(status) => Err(MainState::Exited {
                status: status.clone(),
            }),
        }
    }

    fn announce(&self) {
        // Without a subscriber nobody is told, who can ask later.
        let _ = self.events.send(AgentEvent::Main {
            status: self.status(),
        });
    }
}
