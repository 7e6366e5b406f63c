//! VMs: what exists, and what may be asked of it.
//!
//! ```text
//!  Vms ──command──► worker (one task per VM) ──► start, stop ──► resources ──► Host
//!   │                  │        ▲                    └─────────► Vmm
//!   └──watch── view ◄──┘        └── notices of the guest's agent
//! ```
//!
//! Everything that changes a VM goes through its worker; everything that only reaches into its
//! guest (exec, health, logs: [`reach`]) takes the agent from the worker's view and does not hold it
//! up.
//! Dropping the last [`Vms`] ends every task here and no machine: what a later daemon needs to
//! take over is in the store and in the VMs' directories.

mod console_log;
pub mod host;
mod logs;
mod main_log;
pub mod main_process;
mod main_pump;
pub mod name_generator;
mod progress;
mod reach;
mod recover;
pub mod reference;
pub mod resources;
pub mod spec;
mod start;
pub mod state;
mod stop;
pub mod template;
mod view;
mod waiters;
mod worker;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use banger_protocol::api::vm::{Vm, WaitQuery, WaitResult};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{KernelName, VmId, VmName};
use banger_vmm::{Accelerator, Vmm};
use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::agent::AgentSettings;
use crate::operation::Context;
use crate::random::hex12;
use crate::store::vms::VmRow;
use crate::store::{Store, StoreError};
use resources::{Host, Resource, Scope};
use spec::{HostLimits, NewVm, Observed, VmSpec};
use state::State;
use worker::{Command, Handles, View, Worker};

/// How often a generated name is made again because another VM took it in between.
const NAME_ATTEMPTS: usize = 32;

/// Longest wait that can be asked for.
const WAIT_BOUND: Duration = Duration::from_secs(3600);

/// The parts a daemon gives its VMs.
pub struct VmDeps {
    pub store: Arc<Store>,
    pub vmm: Arc<dyn Vmm>,
    pub host: Arc<dyn Host>,
    pub advisor: Advisor,
    /// Holds one directory per VM; the same that `host` works in.
    pub directory: PathBuf,
    pub settings: Settings,
    registry: Registry,
}

impl VmDeps {
    pub fn new(
        store: Arc<Store>,
        vmm: Arc<dyn Vmm>,
        host: Arc<dyn Host>,
        advisor: Advisor,
        directory: PathBuf,
        settings: Settings,
    ) -> Self {
        VmDeps {
            store,
            vmm,
            host,
            advisor,
            directory,
            settings,
            registry: Registry::default(),
        }
    }
}

/// Numbers and names of this daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names what this daemon makes on the host.
    pub instance: String,
    pub limits: HostLimits,
    /// User ids for VMMs; `None` where the daemon is not root.
    pub uids: Option<RangeInclusive<u32>>,
    /// The group that owns `/dev/kvm`.
    pub kvm_gid: Option<u32>,
    /// Whether a cgroup per VM is tried.
    pub cgroups: bool,
    /// From the start of the VMM to a ready agent.
    pub boot_timeout: Duration,
    /// What a guest has to switch itself off.
    pub stop_timeout: Duration,
    pub agent: AgentSettings,
    /// Bytes of `main`'s output that are kept.
    pub main_log_bound: u64,
    /// How long an ephemeral VM waits for the client that will start its `main`.
    pub main_grace: Duration,
}

/// A kernel as a VM holds it.
#[derive(Clone, Debug)]
pub struct KernelPin {
    pub name: KernelName,
    pub sha256: String,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// What other parts of the daemon know about a boot.
#[derive(Clone, Debug)]
pub struct BootAdvice {
    pub accelerator: Accelerator,
    /// An initramfs with today's agent for that very kernel; `None` boots the one the VM holds.
    pub initramfs: Option<PathBuf>,
}

/// Asked at every start. Probes KVM where its verdict is not known yet.
pub type Advisor =
    Arc<dyn Fn(KernelPin) -> BoxFuture<'static, Result<BootAdvice, ApiError>> + Send + Sync>;

/// All VMs of this daemon; clones share them.
#[derive(Clone)]
pub struct Vms {
    deps: Arc<VmDeps>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// A VM as everybody but its worker sees it.
struct Entry {
    id: VmId,
    name: VmName,
    spec: Arc<VmSpec>,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    joined: watch::Sender<usize>,
    shown: view::Shown,
}

/// Which VMs there are.
#[derive(Default)]
struct Registry {
    by_id: Mutex<HashMap<VmId, Arc<Entry>>>,
}

/// Plain data that is valid at every step, so a panicked holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    fn insert(&self, entry: Arc<Entry>) {
        lock(&self.by_id).insert(entry.id.clone(), entry);
    }

    fn remove(&self, id: &VmId) {
        lock(&self.by_id).remove(id);
    }

    /// By name.
    fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = lock(&self.by_id).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

impl Vms {
    /// Takes over what an earlier daemon left: adopts machines that run, finishes what was half
    /// done, sweeps what nobody names.
    ///
    /// # Errors
    /// The store or the directory cannot be read. A single VM that cannot be taken over is
    /// `failed`, and no error here.
    pub async fn open(deps: VmDeps) -> Result<Vms, ApiError> {
        let vms = Vms {
            deps: Arc::new(deps),
            tasks: Arc::default(),
        };
        recover::recover(&vms).await?;
        Ok(vms)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Makes the worker of a stored VM and what others hold of it.
    fn worker_of(&self, row: VmRow) -> (Worker, Arc<Entry>) {
        let spec = Arc::new(row.spec);
        let (worker, handles) = Worker::new(
            self.deps.clone(),
            row.id.clone(),
            row.name.clone(),
            spec.clone(),
            (row.state, row.transition, row.observed),
        );
        let Handles {
            commands,
            view,
            joined,
        } = handles;
        let entry = Arc::new(Entry {
            id: row.id,
            name: row.name,
            spec,
            commands,
            view,
            joined,
            shown: view::Shown::default(),
        });
        (worker, entry)
    }

    fn find(&self, reference: &str) -> Result<Arc<Entry>, ApiError> {
        let by_id = lock(&self.deps.registry.by_id);
        let names = by_id
            .values()
            .map(|entry| (entry.name.as_str(), entry.id.as_str()));
        let id = reference::resolve(reference, names)?.to_owned();
        by_id
            .values()
            .find(|entry| entry.id.as_str() == id)
            .cloned()
            .ok_or_else(|| reference::not_found(reference))
    }

    fn show_entry(&self, entry: &Entry) -> Vm {
        self.show_view(entry, &entry.view.borrow())
    }

    fn show_view(&self, entry: &Entry, view: &View) -> Vm {
        view::vm(
            entry,
            view,
            view::disk_used(&self.deps.directory, &entry.id),
        )
    }

    /// Creates a VM and starts it, unless that is not wanted. One that cannot be created leaves
    /// nothing; one that does not start stays, failed, so that it can be looked at; one whose
    /// operation is cancelled is removed again.
    ///
    /// # Errors
    /// A value is out of range, the name is taken, the disk is full, or it did not start.
    pub async fn create(&self, new: NewVm, context: &Context) -> Result<Vm, ApiError> {
        let began = Instant::now();
        spec::check(&new, self.deps.settings.limits)?;
        context.stage("create", new.image.name.as_str());
        let directory = Resource::Directory {
            base: new.image.base.clone(),
            kernel: new.kernel.kernel.clone(),
            initramfs: new.kernel.initramfs.clone(),
        };
        let no_start = new.no_start;
        let mut row = self.insert(new)?;
        if let Err(error) = self.hold_directory(&mut row, &directory, began).await {
            // Nothing may remain of what was never there; what does is listed, to be deleted.
            let store = &self.deps.store;
            let undone = resources::release(store, &*self.deps.host, &row.id, Scope::All).await;
            let undone = undone.and_then(|()| Ok(store.remove_vm(&row.id)?));
            if let Err(left) = undone {
                tracing::warn!(vm = %row.name, error = %left, "a VM that was half created is not all gone");
                let delete = format!("banger vm delete {}", row.name);
                row.observed.failure = Some(error.clone().hint(delete));
                row.state = State::Failed;
                // Where this is not stored either, recovery forgets it.
                let _ = store.update_vm(&row.id, row.state, 1, &row.observed);
                row.transition = 1;
                let (worker, entry) = self.worker_of(row);
                self.deps.registry.insert(entry);
                self.spawn(worker.serve());
            }
            return Err(error);
        }
        tracing::info!(vm = %row.name, id = %row.id, "created");
        let (worker, entry) = self.worker_of(row);
        self.deps.registry.insert(entry.clone());
        self.spawn(worker.serve());
        if context.is_cancelled() {
            self.undo_creation(&entry).await;
            return Err(context.cancelled_error());
        }
        if !no_start {
            let started = self.start_entry(&entry, context).await;
            if let Err(error) = started {
                if context.is_cancelled() {
                    self.undo_creation(&entry).await;
                }
                return Err(error);
            }
        }
        Ok(self.show_entry(&entry))
    }

    /// Reserves name and id: of two that race for a name, exactly one gets it.
    fn insert(&self, new: NewVm) -> Result<VmRow, ApiError> {
        let wanted = new.name;
        let spec = VmSpec {
            image: new.image.name,
            image_digest: new.image.digest,
            base_digest: new.image.base_digest,
            image_config: new.image.config,
            kernel: new.kernel.name,
            kernel_sha256: new.kernel.sha256,
            vcpus: new.vcpus,
            memory_mib: new.memory_mib,
            disk_mib: new.disk_mib,
            init: new.init,
            env: new.env,
            user: new.user,
            workdir: new.workdir,
            main: new.main,
            ephemeral: new.ephemeral,
            created_at: OffsetDateTime::now_utc(),
        };
        let mut row = VmRow {
            id: hex12(),
            name: wanted.clone().unwrap_or_else(|| self.new_name()),
            state: State::Created,
            transition: 0,
            spec,
            observed: Observed::default(),
        };
        for _ in 0..NAME_ATTEMPTS {
            match (self.deps.store.insert_vm(&row), &wanted) {
                (Ok(()), _) => return Ok(row),
                (Err(StoreError::NameTaken { .. }), None) => {
                    row.name = self.new_name();
                    row.id = hex12();
                }
                (Err(error), _) => {
                    let mut error = ApiError::from(error);
                    if error.kind == ErrorKind::AlreadyExists {
                        error.message = format!("there is a VM {} already", row.name);
                        error.hint = Some(format!(
                            "choose another name with --name, or remove it: banger vm delete {}",
                            row.name
                        ));
                    }
                    return Err(error);
                }
            }
        }
        Err(ApiError::new(ErrorKind::Internal, "no free name was found")
            .hint("give one with --name"))
    }

    fn new_name(&self) -> VmName {
        let all = self.deps.registry.all();
        let taken: HashSet<&str> = all.iter().map(|entry| entry.name.as_str()).collect();
        name_generator::generate(&taken)
    }

    async fn hold_directory(
        &self,
        row: &mut VmRow,
        directory: &Resource,
        began: Instant,
    ) -> Result<(), ApiError> {
        let store = &self.deps.store;
        resources::acquire(store, &*self.deps.host, &row.id, directory).await?;
        row.observed.timings = vec![start::timing("create", began.elapsed())];
        // The number tells recovery that the creation is complete.
        row.transition = 1;
        store.update_vm(&row.id, row.state, row.transition, &row.observed)?;
        Ok(())
    }

    async fn undo_creation(&self, entry: &Entry) {
        let (reply, answer) = oneshot::channel();
        let context = Context::detached();
        if let Err(error) = self
            .ask(entry, Command::Delete { context, reply }, answer)
            .await
        {
            tracing::warn!(vm = %entry.name, %error, "a cancelled creation was not undone");
        }
    }

    async fn ask<T>(
        &self,
        entry: &Entry,
        command: Command,
        answer: oneshot::Receiver<Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        // A worker that has gone took its VM with it, unless it panicked.
        let gone = || {
            if entry.view.borrow().gone {
                reference::not_found(entry.name.as_str())
            } else {
                ApiError::new(
                    ErrorKind::Internal,
                    format!("nobody looks after VM {} any more", entry.name),
                )
                .hint("see bangerd's log, and restart bangerd")
            }
        };
        entry.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn start_entry(&self, entry: &Entry, context: &Context) -> Result<(), ApiError> {
        let (reply, answer) = oneshot::channel();
        let context = context.clone();
        self.ask(entry, Command::Start { context, reply }, answer)
            .await
    }

    /// Starts a VM; one that runs is left as it is.
    ///
    /// # Errors
    /// It does not exist or does not boot.
    pub async fn start(&self, vm: &str, context: &Context) -> Result<Vm, ApiError> {
        let entry = self.find(vm)?;
        self.start_entry(&entry, context).await?;
        Ok(self.show_entry(&entry))
    }

    /// Stops a VM; one that does not run is left as it is. The guest has `timeout` to write
    /// everything and switch itself off, by default `stop_timeout`.
    ///
    /// # Errors
    /// It does not exist, or its VMM died instead.
    pub async fn stop(
        &self,
        vm: &str,
        timeout: Option<Duration>,
        context: &Context,
    ) -> Result<Vm, ApiError> {
        let entry = self.find(vm)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Stop {
            timeout: timeout.unwrap_or(self.deps.settings.stop_timeout),
            context: context.clone(),
            reply,
        };
        self.ask(&entry, command, answer).await?;
        Ok(self.show_entry(&entry))
    }

    /// Deletes a VM and everything it wrote; one that runs is stopped first.
    ///
    /// # Errors
    /// It does not exist, or something of it cannot be given back yet.
    pub async fn delete(&self, vm: &str, context: &Context) -> Result<(), ApiError> {
        let entry = self.find(vm)?;
        let (reply, answer) = oneshot::channel();
        let context = context.clone();
        self.ask(&entry, Command::Delete { context, reply }, answer)
            .await
    }

    /// All VMs by name: the JSON of a [`VmList`](banger_protocol::api::vm::VmList).
    ///
    /// # Errors
    /// One of them cannot be shown, which is a fault.
    pub fn list(&self) -> Result<Vec<u8>, ApiError> {
        let entries = self.deps.registry.all();
        // A VM takes some 400 bytes; grown from nothing a long list would be copied a dozen times.
        let mut json = Vec::with_capacity(512 * (entries.len() + 1));
        json.extend_from_slice(b"{\"vms\":[");
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            let view = entry.view.borrow();
            entry
                .shown
                .write(&view, &mut json, || self.show_view(entry, &view))
                .map_err(|error| {
                    ApiError::new(
                        ErrorKind::Internal,
                        format!("cannot show VM {}: {error}", entry.name),
                    )
                })?;
        }
        json.extend_from_slice(b"]}");
        Ok(json)
    }

    /// # Errors
    /// It does not exist, or the text names several.
    pub async fn show(&self, vm: &str) -> Result<Vm, ApiError> {
        Ok(self.show_entry(&*self.find(vm)?))
    }

    /// Names of the VMs whose base this is.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn users_of_base(&self, base_digest: &str) -> Result<Vec<String>, ApiError> {
        Ok(self.deps.store.vms_of_base(base_digest)?)
    }

    /// Names of the VMs that were created with this kernel.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn users_of_kernel(&self, kernel: &KernelName) -> Result<Vec<String>, ApiError> {
        Ok(self.deps.store.vms_of_kernel(kernel.as_str())?)
    }

    /// Waits for something to be so.
    ///
    /// # Errors
    /// It does not exist; the time is over; or it failed while its readiness was waited for.
    pub async fn wait(&self, vm: &str, query: WaitQuery) -> Result<WaitResult, ApiError> {
        let entry = self.find(vm)?;
        let bound = query
            .timeout_ms
            .map_or(WAIT_BOUND, Duration::from_millis)
            .min(WAIT_BOUND);
        let mut view = entry.view.clone();
        let reached = view.wait_for(|view| view::reached(view, query.wait_for).is_some());
        let reached = match tokio::time::timeout(bound, reached).await {
            Ok(Ok(view)) => view::reached(&view, query.wait_for).unwrap_or(Ok(())),
            // The worker ended after its last word.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(ApiError::new(
                ErrorKind::Timeout,
                format!(
                    "VM {} was not {} within {bound:?}: it is {}",
                    entry.name,
                    view::waited_for(query.wait_for),
                    entry.view.borrow().state.name()
                ),
            )),
        };
        reached?;
        let view = entry.view.borrow().clone();
        Ok(WaitResult {
            exit_code: view.observed.main.as_ref().and_then(|main| main.exit_code),
            vm: (!view.gone).then(|| self.show_entry(&entry)),
        })
    }
}
