//! What the agent knows, whoever asks.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_protocol::agent::{
    AgentError, AgentErrorKind, AgentEvent, AgentState, BootConfig, BootReport, Down, Health,
    ProcessSpec, Shutdown,
};
use banger_protocol::build::this_build;
use banger_protocol::exec::StartFailure;
use tokio::sync::{broadcast, mpsc};

use crate::main_process::MainSlot;
use crate::process::{Keep, Limits, Process, Table};
use crate::reaper::Reaper;
use crate::user::Accounts;

/// What the agent does that needs a machine of its own, so that the rest runs anywhere.
pub trait Machine: Send {
    /// Becomes what the configuration says. Called at most once with success.
    fn boot(&mut self, config: &BootConfig) -> Result<BootReport, AgentError>;
}

pub struct Agent {
    boot: Mutex<Boot>,
    pub reaper: Arc<Reaper>,
    pub execs: Table,
    pub main: Arc<MainSlot>,
    pub events: broadcast::Sender<AgentEvent>,
    /// Where the one who ends the machine listens.
    down: mpsc::UnboundedSender<Shutdown>,
}

struct Boot {
    state: AgentState,
    machine: Option<Box<dyn Machine>>,
    report: Option<BootReport>,
}

/// Events kept for a reader that is behind; it learns the state of things anew beyond that.
const EVENTS: usize = 64;

impl Agent {
    /// An agent that waits to be booted, and the requests to end its machine.
    pub fn new(
        machine: Box<dyn Machine>,
        reaper: Arc<Reaper>,
    ) -> (Arc<Agent>, mpsc::UnboundedReceiver<Shutdown>) {
        let (down, downs) = mpsc::unbounded_channel();
        let events = broadcast::Sender::new(EVENTS);
        let agent = Arc::new(Agent {
            boot: Mutex::new(Boot {
                state: AgentState::Waiting,
                machine: Some(machine),
                report: None,
            }),
            reaper,
            execs: Table::new(Limits::default()),
            main: Arc::new(MainSlot::new(events.clone())),
            events,
            down,
        });
        (agent, downs)
    }

    fn state(&self) -> MutexGuard<'_, Boot> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Boots, and starts `main` where the configuration has one. Asked again it tells the report.
    pub fn boot(&self, config: &BootConfig) -> Result<BootReport, AgentError> {
        let mut boot = self.state();
        if let Some(report) = &boot.report {
            return Ok(report.clone());
        }
        // A failed boot leaves half a machine, which no second attempt makes whole.
        let Some(mut machine) = boot.machine.take() else {
            return Err(AgentError::new(
                AgentErrorKind::BootFailed,
                "booting failed before",
            ));
        };
        let report = match machine.boot(config) {
            Ok(report) => report,
            Err(error) => {
                boot.state = AgentState::Failed;
                crate::log::warn(&format!("booting failed: {}", error.message));
                return Err(error);
            }
        };
        boot.state = AgentState::Ready;
        boot.report = Some(report.clone());
        drop(boot);
        if let Some(spec) = &config.main {
            // It cannot be running, since nothing could be asked for before.
            self.main.start(spec, &self.accounts(), &self.reaper)?;
        }
        Ok(report)
    }

    pub fn health(&self) -> Health {
        let boot = self.state();
        Health {
            state: boot.state,
            uptime_ms: crate::clock::uptime_us() / 1000,
            build: this_build(),
            report: boot.report.clone(),
        }
    }

    /// Whether there is a root file system to run anything in.
    pub fn ready(&self) -> Result<(), AgentError> {
        match self.state().state {
            AgentState::Ready => Ok(()),
            state => Err(AgentError::new(
                AgentErrorKind::WrongState,
                format!(
                    "the machine is {}",
                    match state {
                        AgentState::Waiting => "not booted yet",
                        AgentState::Failed => "not usable, booting failed",
                        AgentState::GoingDown | AgentState::Ready => "going down",
                    }
                ),
            )),
        }
    }

    pub fn accounts(&self) -> Accounts {
        Accounts::read(Path::new("/"))
    }

    /// Starts a process of exec; `Err` inside where the process could not be.
    pub fn exec(
        self: &Arc<Self>,
        spec: &ProcessSpec,
    ) -> Result<(u64, Result<Arc<Process>, StartFailure>), AgentError> {
        self.ready()?;
        let id = self.execs.reserve().ok_or_else(|| {
            AgentError::new(AgentErrorKind::TooMany, "too many processes of exec run")
        })?;
        let agent = Arc::clone(self);
        let on_exit = move |process: &Arc<Process>| {
            let id = process.id;
            tokio::spawn(async move { agent.execs.expire(id).await });
        };
        let started = Process::start(
            id,
            spec,
            &self.accounts(),
            &self.reaper,
            Keep::Nothing,
            on_exit,
        );
        if let Ok(process) = &started {
            self.execs.insert(Arc::clone(process));
        }
        Ok((id, started))
    }

    /// Begins to end the machine: everyone is told, and whoever does it.
    pub fn go_down(&self, shutdown: Shutdown) {
        self.announce_down(shutdown.how);
        // The receiver lives as long as the machine.
        let _ = self.down.send(shutdown);
    }

    /// The guest ends by itself.
    pub fn announce_down(&self, how: Down) {
        self.state().state = AgentState::GoingDown;
        let _ = self.events.send(AgentEvent::GoingDown { how });
    }
}
