//! Taking over what an earlier daemon left.
//!
//! | stored state          | machine lives             | machine is gone                          |
//! |-----------------------|---------------------------|------------------------------------------|
//! | created, number 0     |                           | was half created: forgotten              |
//! | created, stopped, failed | killed                 | released                                 |
//! | starting              | killed, failed            | failed                                   |
//! | running, unresponsive | adopted                   | stopped or failed, see [`judge`]         |
//! | stopping              | adopted, stopped          | stopped                                  |
//! | deleting              | killed, deleted           | deleted                                  |
//!
//! After that, what lies in the VMs' directory and no row names is removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::error::{ApiError, ErrorKind};
use banger_vmm::{Machine, MachineRecord, VmmError};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::resources::{self, Resource, Scope};
use super::spec::Boot;
use super::state::{Event, State};
use super::worker::{Command, Flow, Worker};
use super::{VmDeps, Vms};
use crate::store::vms::VmRow;
use crate::store::with_sources;

/// How long the first hello of an adopted guest holds up the daemon's start; it is taken for
/// unresponsive after that, until it answers.
const HELLO_BOUND: Duration = Duration::from_secs(2);

/// How long a driver may take to ask one machine, before it asks again.
const ADOPT_BOUND: Duration = Duration::from_secs(10);

/// Between two such attempts.
const ADOPT_PAUSE: Duration = Duration::from_millis(500);

const VMM_SILENT: &str = "its VMM lives, and does not answer bangerd";

pub(super) async fn recover(vms: &Vms) -> Result<(), ApiError> {
    let deps = &vms.deps;
    let mut recovered = Vec::new();
    for row in deps.store.vms()? {
        if row.transition == 0 && forget_half_created(deps, &row).await? {
            continue;
        }
        let (worker, entry) = vms.worker_of(row);
        deps.registry.insert(entry);
        let (done, wait) = oneshot::channel();
        vms.spawn(take_over(worker, done));
        recovered.push(wait);
    }
    join_all(recovered).await;
    sweep(deps).await
}

/// Undoes a creation that never came to its end. `false` where something of it cannot be removed:
/// then it stays, to be deleted by hand.
async fn forget_half_created(deps: &VmDeps, row: &VmRow) -> Result<bool, ApiError> {
    info!(vm = %row.name, id = %row.id, "forgetting a VM that was half created");
    let released = resources::release(&deps.store, &*deps.host, &row.id, Scope::All).await;
    if let Err(error) = released {
        warn!(vm = %row.name, %error, "a VM that was half created is not all gone");
        return Ok(false);
    }
    deps.store.remove_vm(&row.id)?;
    Ok(true)
}

async fn take_over(mut worker: Worker, done: oneshot::Sender<()>) {
    // What takes long does not hold up the daemon's start: this is dropped, which tells, once it is
    // known to.
    let mut holding_up = Some(done);
    let flow = worker.take_over(&mut holding_up).await;
    drop(holding_up);
    if flow == Flow::Gone {
        return;
    }
    if worker.state == State::Stopping {
        let wanted = worker.waiting.iter().filter_map(Command::stop_bound).min();
        let bound = worker.deps.settings.stop_timeout;
        let bound = wanted.map_or(bound, |wanted| wanted.min(bound));
        if let Err(error) = worker.stop(bound).await {
            warn!(vm = %worker.name, %error, "was not stopped as it should");
        }
        if worker.spent_by_end() && worker.remove_quietly().await == Flow::Gone {
            return;
        }
    }
    worker.serve().await;
}

impl Worker {
    /// Brings stored and real state together.
    async fn take_over(&mut self, holding_up: &mut Option<oneshot::Sender<()>>) -> Flow {
        match self.state {
            State::Running | State::Unresponsive | State::Stopping => {
                match self.wait_for_machine(holding_up).await {
                    Ok(Some(machine)) => self.adopt_running(machine).await,
                    Ok(None) => return self.ended_unseen().await,
                    Err(Unadopted::Unwanted) => {
                        self.forget_run().await;
                        self.observed.note =
                            Some("its VMM did not answer bangerd, and was killed".to_owned());
                        self.happened(Event::Stop);
                        self.happened(Event::Ended);
                    }
                    Err(Unadopted::Vmm(error)) => {
                        let reason = with_sources(&error);
                        self.forget_run().await;
                        self.fail(
                            ErrorKind::MachineDied,
                            format!(
                                "the machine of VM {} could not be taken over: {reason}",
                                self.name
                            ),
                            "",
                        );
                    }
                }
            }
            State::Starting => {
                self.end_left_machine().await;
                let ever_ready = self.observed.started_at.is_some();
                self.forget_run().await;
                self.release_scope(Scope::after_failed_start(ever_ready))
                    .await;
                self.observed.failure = Some(
                    ApiError::new(
                        ErrorKind::BootFailed,
                        format!("bangerd ended while VM {} was starting", self.name),
                    )
                    .hint(format!("banger vm start {}", self.name)),
                );
                self.happened(Event::StartFailed);
            }
            State::Created | State::Stopped | State::Failed => {
                self.end_left_machine().await;
                self.release_scope(Scope::Run).await;
                // It ended, and the daemon was killed before it could remove it.
                if self.spent_by_end() {
                    return self.remove_quietly().await;
                }
            }
            State::Deleting => {
                self.end_left_machine().await;
                return match self.remove(Duration::ZERO).await {
                    Ok(()) => Flow::Gone,
                    Err(error) => {
                        warn!(vm = %self.name, %error, "not deleted");
                        Flow::Stay
                    }
                };
            }
        }
        Flow::Stay
    }

    /// A VMM that says nothing is waited for as long as a boot is: on a busy host it may need to
    /// be, and what is killed then is somebody's machine. Unless its end is asked for meanwhile.
    async fn wait_for_machine(
        &mut self,
        holding_up: &mut Option<oneshot::Sender<()>>,
    ) -> Result<Option<Arc<dyn Machine>>, Unadopted> {
        let Some(record) = self.observed.machine.clone() else {
            return Ok(None);
        };
        let deps = self.deps.clone();
        let deadline = Instant::now() + deps.settings.boot_timeout;
        let impatient = sleep(HELLO_BOUND.min(deps.settings.agent.answer));
        tokio::pin!(impatient);
        let mut silent = false;
        loop {
            let mut attempt = Box::pin(async {
                let found = adopt(&deps, record.clone()).await;
                if matches!(found, Err(VmmError::Timeout { .. })) {
                    sleep(ADOPT_PAUSE).await;
                }
                found
            });
            let found = loop {
                tokio::select! {
                    biased;
                    found = &mut attempt => break found,
                    () = &mut impatient, if !silent => {
                        silent = true;
                        self.vmm_is_silent();
                        *holding_up = None;
                    }
                    Some(command) = self.commands.recv() => self.waiting.push_back(command),
                }
                if silent && self.end_is_wanted() {
                    return Err(Unadopted::Unwanted);
                }
            };
            match found {
                Err(VmmError::Timeout { .. }) if Instant::now() < deadline => {
                    silent = true;
                    self.vmm_is_silent();
                    *holding_up = None;
                    if self.end_is_wanted() {
                        return Err(Unadopted::Unwanted);
                    }
                }
                found => {
                    self.observed.note.take_if(|note| note == VMM_SILENT);
                    return found.map_err(Unadopted::Vmm);
                }
            }
        }
    }

    /// Somebody waits for the machine's end.
    fn end_is_wanted(&self) -> bool {
        self.waiting
            .iter()
            .any(|command| command.stop_bound().is_some())
    }

    fn vmm_is_silent(&mut self) {
        if self.observed.note.as_deref() != Some(VMM_SILENT) {
            warn!(vm = %self.name, "{VMM_SILENT}");
            self.observed.note = Some(VMM_SILENT.to_owned());
            self.persist();
            self.happened(Event::Silent);
        }
    }

    async fn find_machine(&self) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        let Some(record) = self.observed.machine.clone() else {
            return Ok(None);
        };
        adopt(&self.deps, record).await
    }

    async fn adopt_running(&mut self, machine: Arc<dyn Machine>) {
        let agent = self.adopt(machine);
        let bound = HELLO_BOUND.min(self.deps.settings.agent.answer);
        match agent.hello(bound).await {
            Ok(hello) => {
                let boot = Boot::of(hello);
                if self.observed.boot.as_ref() != Some(&boot) {
                    self.observed.note = Some(
                        "its guest is not the one bangerd left: its agent began anew".to_owned(),
                    );
                    self.observed.boot = Some(boot);
                }
                info!(vm = %self.name, "adopted");
                self.persist();
                self.happened(Event::Answered);
            }
            Err(error) => {
                warn!(vm = %self.name, %error, "adopted, but its agent does not answer yet");
                self.persist();
                self.happened(Event::Silent);
            }
        }
    }

    /// The machine ended while no daemon lived.
    async fn ended_unseen(&mut self) -> Flow {
        let was_stopping = self.state == State::Stopping;
        let directory = self.deps.directory.join(self.id.as_str());
        let words = banger_vmm::console::vmm_tail(&directory.join(super::host::JAIL), 1);
        let console = banger_vmm::console::tail(&directory.join(super::host::JAIL), 20);
        let same_host_boot = self.observed.host_boot.is_some()
            && self.observed.host_boot == banger_host::kernel::boot_id().ok();
        self.forget_run().await;
        match judge(was_stopping, same_host_boot, &words) {
            Verdict::Stopped(note) => {
                self.observed.note = note;
                self.happened(Event::Ended);
            }
            Verdict::Died(reason) => {
                let message = format!(
                    "the machine of VM {} died while bangerd did not run: {reason}",
                    self.name
                );
                self.fail(ErrorKind::MachineDied, message, &console);
            }
        }
        if self.spent_by_end() {
            return self.remove_quietly().await;
        }
        Flow::Stay
    }

    /// Kills a machine that should not be there; its driver knows it better than the host does.
    async fn end_left_machine(&mut self) {
        match self.find_machine().await {
            Ok(Some(machine)) => {
                info!(vm = %self.name, "killing a machine that was left");
                if let Err(error) = machine.kill().await {
                    warn!(vm = %self.name, %error, "a machine was not killed by its driver");
                }
            }
            Ok(None) => {}
            Err(error) => warn!(vm = %self.name, %error, "a machine was not found by its driver"),
        }
    }

    async fn release_scope(&mut self, scope: Scope) {
        let released =
            resources::release(&self.deps.store, &*self.deps.host, &self.id, scope).await;
        if released.is_ok() {
            self.observed.machine = None;
        }
    }
}

/// Why a machine was not taken over.
enum Unadopted {
    Vmm(VmmError),
    /// It was silent, and its end was asked for.
    Unwanted,
}

async fn adopt(deps: &VmDeps, record: MachineRecord) -> Result<Option<Arc<dyn Machine>>, VmmError> {
    let bound = ADOPT_BOUND.min(deps.settings.agent.answer);
    match timeout(bound, deps.vmm.adopt(record)).await {
        Ok(adopted) => adopted,
        Err(_) => Err(VmmError::Timeout {
            what: "taking over a machine",
            after: bound,
        }),
    }
}

/// What is made of a machine that ended unseen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Stopped(Option<String>),
    Died(String),
}

/// A VMM that was asked to end, or whose guest switched itself off, says nothing; one that says
/// something last died of it.
fn judge(was_stopping: bool, same_host_boot: bool, last_words: &str) -> Verdict {
    let words = last_words.trim();
    if was_stopping {
        return Verdict::Stopped(None);
    }
    if !same_host_boot {
        return Verdict::Stopped(Some("the host was restarted while it ran".to_owned()));
    }
    if words.is_empty() {
        return Verdict::Stopped(Some(
            "its machine ended while bangerd did not run; how is not known".to_owned(),
        ));
    }
    Verdict::Died(words.to_owned())
}

/// Removes what lies on the host and no row names.
async fn sweep(deps: &VmDeps) -> Result<(), ApiError> {
    let known: HashSet<_> = deps.store.vms()?.into_iter().map(|row| row.id).collect();
    for id in deps.host.leftovers()? {
        if known.contains(&id) {
            continue;
        }
        info!(%id, "removing what an unknown VM left");
        let nowhere = std::path::PathBuf::new;
        for resource in [
            Resource::Machine,
            Resource::Jail {
                uid: None,
                initramfs: None,
            },
            Resource::Directory {
                base: nowhere(),
                kernel: nowhere(),
                initramfs: nowhere(),
            },
        ] {
            if let Err(error) = deps.host.release(&id, &resource).await {
                warn!(%id, error = %with_sources(&error), "not removed");
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let note = |text: &str| Verdict::Stopped(Some(text.to_owned()));
        for (was_stopping, same_boot, words, expected) in [
            (true, true, "qemu: oops", Verdict::Stopped(None)),
            (
                false,
                false,
                "qemu: oops",
                note("the host was restarted while it ran"),
            ),
            (
                false,
                true,
                " \n",
                note("its machine ended while bangerd did not run; how is not known"),
            ),
            (
                false,
                true,
                "qemu: oops\n",
                Verdict::Died("qemu: oops".to_owned()),
            ),
        ] {
            assert_eq!(judge(was_stopping, same_boot, words), expected);
        }
    }
}
