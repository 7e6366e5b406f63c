//! How a machine ends, by itself or by us, and a VM after it.

use std::time::Duration;

use banger_protocol::agent::AgentEvent;
use banger_protocol::api::vm::MainState;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_vmm::Exit;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::{DRAIN_BOUND, Flow, Run, Worker};
use crate::agent::Notice;
use crate::vm::resources::{self, Scope};
use crate::vm::state::{Event, State};
use crate::vm::stop::{self, Stopped};
use crate::vm::waiters::Waiters;

/// How long what a guest said before its end has to be heard.
const LAST_WORDS_BOUND: Duration = Duration::from_secs(1);

/// A guest that reboots this often, each time this soon after it was ready, is broken.
const REBOOTS: (u32, Duration) = (5, Duration::from_secs(10));

/// Lines of the console in the reason of a machine's death.
const CONSOLE_LINES: usize = 20;

impl Worker {
    /// The machine ended, and we did not do it.
    pub(super) async fn ended(&mut self, exit: Exit) -> Flow {
        let Some(run) = self.run.take() else {
            return Flow::Stay;
        };
        let lived = run.ready_at.elapsed();
        let console = run.machine.console_tail(CONSOLE_LINES);
        self.put_away(run).await;
        match exit {
            Exit::Reboot if !(self.spec.ephemeral && self.spec.main.is_none()) => {
                self.quick_reboots = if lived < REBOOTS.1 {
                    self.quick_reboots + 1
                } else {
                    0
                };
                if self.quick_reboots < REBOOTS.0 {
                    return self.start(Event::Rebooted, Waiters::none()).await;
                }
                self.fail(
                    ErrorKind::BootFailed,
                    format!(
                        "VM {} restarted itself {} times, each time within {:?} of being ready",
                        self.name, REBOOTS.0, REBOOTS.1
                    ),
                    &console,
                );
                Flow::Stay
            }
            Exit::Died { reason } => {
                self.fail(
                    ErrorKind::MachineDied,
                    format!("the machine of VM {} died: {reason}", self.name),
                    &console,
                );
                Flow::Stay
            }
            Exit::PowerOff | Exit::Reboot | Exit::Killed | Exit::Unknown => {
                self.observed.note = match exit {
                    Exit::Killed => Some("its VMM was killed".to_owned()),
                    Exit::Unknown => Some("its VMM ended; how is not known".to_owned()),
                    _ => None,
                };
                self.announce(Event::Ended);
                if self.spent_by_end() {
                    return self.remove_quietly().await;
                }
                Flow::Stay
            }
        }
    }

    pub(in crate::vm) fn fail(&mut self, kind: ErrorKind, message: String, console: &str) {
        self.observed.failure = Some(
            ApiError::new(kind, message)
                .hint(format!("banger vm logs --console {}", self.name))
                .details(console.lines().map(str::to_owned).collect()),
        );
        self.announce(Event::Died);
    }

    /// Whether the end of the machine is the end of the VM.
    pub(in crate::vm) fn spent_by_end(&self) -> bool {
        self.spec.ephemeral && self.state == State::Stopped && self.observed.started_at.is_some()
    }

    /// Lets the last output arrive and releases what a run holds.
    async fn put_away(&mut self, mut run: Run) {
        run.ended.cancel();
        let agent = run.agent.clone();
        let mut heard = Box::pin(timeout(LAST_WORDS_BOUND, agent.disconnected()));
        let mut over = false;
        while !over {
            let notice = tokio::select! {
                biased;
                notice = run.notices.recv() => notice,
                _ = &mut heard => {
                    over = true;
                    run.notices.try_recv().ok()
                }
            };
            match notice {
                Some(Notice::Event(AgentEvent::Main { status })) => self.main_status(status),
                Some(_) => {}
                None => over = true,
            }
        }
        if let Some(mut pump) = run.pump.take()
            && timeout(DRAIN_BOUND, &mut pump.0).await.is_err()
        {
            warn!(vm = %self.name, "the last output of main was not taken over");
        }
        self.removal = None;
        self.main_due = None;
        drop(run);
        self.forget_run().await;
    }

    /// Releases what a run holds, whether or not a machine was seen.
    pub(in crate::vm) async fn forget_run(&mut self) {
        if self.release(Scope::Run).await.is_ok() {
            self.observed.machine = None;
        }
        self.observed.boot = None;
        if let Some(main) = &mut self.observed.main
            && main.state == MainState::Running
        {
            // Nobody saw it end; it ended with its machine, as if killed.
            main.state = MainState::Exited;
            main.exit_code = Some(128 + 9);
        }
    }

    pub(super) async fn release(&self, scope: Scope) -> Result<(), ApiError> {
        resources::release(&self.deps.store, &*self.deps.host, &self.id, scope).await
    }

    /// Ends a running VM: asked, then killed. Leaves it stopped, or failed.
    pub(in crate::vm) async fn stop(&mut self, bound: Duration) -> Result<(), ApiError> {
        let Some(mut run) = self.run.take() else {
            return Ok(());
        };
        self.announce(Event::Stop);
        let begun = Instant::now();
        let mut deadline = begun + bound;
        let agent = run.agent.clone();
        let mut asking = Box::pin(stop::ask(&agent, deadline));
        let mut asked = false;
        let mut why = None;
        let exit = loop {
            tokio::select! {
                biased;
                exit = &mut run.exit.0 => break Some(exit.unwrap_or(Exit::Unknown)),
                outcome = &mut asking, if !asked => match outcome {
                    Ok(()) => asked = true,
                    Err(reason) => {
                        if !reason.is_empty() {
                            why = Some(format!("the guest could not be asked to end, and was killed: {reason}"));
                        }
                        break None;
                    }
                },
                () = sleep_until(deadline) => {
                    why = Some(format!("the guest did not end within {:?}, and was killed", begun.elapsed()));
                    break None;
                }
                Some(notice) = run.notices.recv() => {
                    if let Notice::Event(AgentEvent::Main { status }) = notice {
                        self.main_status(status);
                    }
                }
                Some(command) = self.commands.recv() => {
                    if let Some(bound) = command.stop_bound() {
                        deadline = deadline.min(Instant::now() + bound);
                    }
                    self.waiting.push_back(command);
                }
            }
        };
        drop(asking);
        let console = run.machine.console_tail(CONSOLE_LINES);
        let stopped = stop::finish(&run.machine, exit, why).await;
        self.put_away(run).await;
        match stopped {
            Stopped::Died { reason } => {
                self.fail(
                    ErrorKind::MachineDied,
                    format!(
                        "the machine of VM {} died while it was stopped: {reason}",
                        self.name
                    ),
                    &console,
                );
                self.observed.failure.clone().map_or(Ok(()), Err)
            }
            Stopped::ByGuest => {
                self.observed.note = None;
                self.announce(Event::Ended);
                Ok(())
            }
            Stopped::Killed { why } => {
                self.observed.note = why;
                self.announce(Event::Ended);
                Ok(())
            }
        }
    }

    /// Removes the VM, stopping it first. On failure it stays, failed.
    pub(in crate::vm) async fn remove(&mut self, bound: Duration) -> Result<(), ApiError> {
        if self.run.is_some()
            && let Err(error) = self.stop(bound).await
        {
            debug!(vm = %self.name, %error, "deleted all the same");
        }
        if self.state != State::Deleting && !self.announce(Event::Delete) {
            return Err(self.wrong_state("delete"));
        }
        let released = match self.release(Scope::All).await {
            Ok(()) => self.deps.store.remove_vm(&self.id).map_err(ApiError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            let mut failure = error;
            failure.message = format!("VM {} is not all gone: {}", self.name, failure.message);
            failure
                .hint
                .get_or_insert_with(|| format!("banger vm delete {}", self.name));
            self.observed.failure = Some(failure.clone());
            self.announce(Event::DeleteFailed);
            return Err(failure);
        }
        self.deps.registry.remove(&self.id);
        self.view.send_modify(|view| {
            view.state = State::Deleting;
            view.agent = None;
            view.gone = true;
        });
        info!(vm = %self.name, id = %self.id, "deleted");
        Ok(())
    }

    /// Removes an ephemeral VM whose time is over: nothing on its disk is wanted any more.
    pub(in crate::vm) async fn remove_quietly(&mut self) -> Flow {
        match self.remove(Duration::ZERO).await {
            Ok(()) => Flow::Gone,
            Err(error) => {
                warn!(vm = %self.name, %error, "an ephemeral VM was not removed");
                self.removal = None;
                self.main_due = None;
                Flow::Stay
            }
        }
    }
}
