//! The worker's part in `main`: it starts the one of the spec, and follows any.

use banger_protocol::agent::{MainStart, MainState as GuestMain, MainStatus, OpenRequest};
use banger_protocol::api::vm::{MainProcess, MainState};
use banger_protocol::exec::ExitStatus;
use tokio::time::timeout;
use tracing::info;

use super::{AbortOnDrop, DRAIN_BOUND, Worker};
use crate::agent::shorten;
use crate::vm::main_process::{main_command, process_spec};
use crate::vm::main_pump;

impl Worker {
    /// Starts the `main` of the spec. Its failure is the VM's note, not its end: it is a machine.
    pub(super) async fn start_persistent_main(&mut self) {
        let (Some(main), Some(init)) = (&self.spec.main, self.observed.init) else {
            return;
        };
        let Some(command) = main_command(&self.spec.image_config, init, &main.command) else {
            self.observed.main = None;
            return;
        };
        let Some(run) = &self.run else { return };
        let request = OpenRequest::MainStart(MainStart {
            process: process_spec(&self.spec, command.clone()),
            attach: false,
        });
        self.observed.main = Some(MainProcess {
            command,
            state: MainState::Waiting,
            exit_code: None,
            persistent: true,
        });
        match run.agent.ask::<MainStatus>(&request).await {
            Ok((status, _)) => self.main_status(status),
            Err(error) => {
                self.observed.note = Some(format!("its main was not started: {error}"));
                self.persist();
            }
        }
    }

    /// The guest says how its `main` is.
    pub(super) fn main_status(&mut self, status: MainStatus) {
        let Some(main) = &mut self.observed.main else {
            return;
        };
        let before = (main.state, main.exit_code);
        match status.state {
            GuestMain::Waiting => return,
            GuestMain::Running { .. } => {
                main.state = MainState::Running;
                main.exit_code = None;
            }
            GuestMain::Exited { status } => {
                if main.persistent
                    && let ExitStatus::Failed(failure) = &status
                {
                    let mut note = format!("its main was not started: {}", failure.message);
                    shorten(&mut note);
                    self.observed.note = Some(note);
                }
                main.state = MainState::Exited;
                main.exit_code = Some(exit_code(&status));
            }
        }
        let now = (main.state, main.exit_code);
        self.main_due = None;
        self.start_pump();
        if now == before {
            return;
        }
        info!(vm = %self.name, state = ?now.0, exit_code = now.1, "main");
        self.persist();
        if now.0 == MainState::Exited && self.spec.ephemeral && self.removal.is_none() {
            self.removal = Some(self.until_output_was_read());
        }
    }

    /// Begins to take over the output of `main`, unless that was begun.
    fn start_pump(&mut self) {
        let number = self.run_number();
        let Some(run) = &mut self.run else { return };
        if run.pump.as_ref().is_some_and(|pump| !pump.0.is_finished()) {
            return;
        }
        let pump = main_pump::pump(
            run.agent.clone(),
            self.deps.directory.join(self.id.as_str()),
            number,
            self.deps.settings.main_log_bound,
            run.ended.clone(),
        );
        run.pump = Some(AbortOnDrop(tokio::spawn(pump)));
    }

    /// Names the run in the log: the millisecond in which it became ready, which survives a
    /// restart of the daemon and grows from run to run.
    fn run_number(&self) -> u64 {
        self.observed
            .started_at
            .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
            .unwrap_or_default()
    }

    /// Resolves when no client is joined to `main` any more and its output is in the log.
    fn until_output_was_read(&mut self) -> AbortOnDrop<()> {
        let mut joined = self.joined.clone();
        let pump = self.run.as_mut().and_then(|run| run.pump.take());
        AbortOnDrop(tokio::spawn(async move {
            if let Some(mut pump) = pump {
                let _ = timeout(DRAIN_BOUND, &mut pump.0).await;
            }
            let _ = joined.wait_for(|count| *count == 0).await;
        }))
    }
}

/// The exit code as a shell tells it; 255 where banger could not even try.
fn exit_code(status: &ExitStatus) -> i32 {
    status.shell_code().unwrap_or(255)
}
