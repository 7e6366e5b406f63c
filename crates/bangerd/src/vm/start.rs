//! The start recipe: from resources to an agent that is ready, in boot order.
//!
//! ```text
//! advice ─► uid ─► disk ─► jail ─► cgroup ─► launch ─► hello ─► boot ─► ready
//! ```
//!
//! Each line is timed, each wait is bounded and ends early when the start is cancelled or the
//! machine ends. The recipe never cleans up: the worker releases what the ledger names, and kills
//! the machine the recipe hands back with its error.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_protocol::agent::{BootConfig, BootReport, Disks, Init};
use banger_protocol::api::vm::{InitChoice, Timing};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{VmId, VmName};
use banger_protocol::size;
use banger_vmm::{
    Disk, Exit, JailConfig, Machine, MachineConfig, MemoryBacking, VmmError, jail_path,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::host::{JAIL, cgroup_directories};
use super::progress::Progress;
use super::resources::{self, Resource};
use super::spec::{Boot, Observed, VmSpec};
use super::state::State;
use super::{KernelPin, VmDeps};
use crate::agent::{Agent, GuestError, Hello, Keeper, Notice, unless_gone};
use crate::store::{StoreError, with_sources};

/// How long a VMM has from its launch to its sockets answering.
const LAUNCH_BOUND: Duration = Duration::from_secs(60);

/// Console lines in a boot error.
const CONSOLE_LINES: usize = 20;

/// Warnings of one boot that are logged.
const WARNINGS: usize = 32;

/// Times a uid is picked again because another VM took it in between.
const UID_ATTEMPTS: usize = 16;

/// What the recipe needs to know.
pub(super) struct Recipe {
    pub deps: Arc<VmDeps>,
    pub id: VmId,
    pub name: VmName,
    pub spec: Arc<VmSpec>,
    /// Number of the transition to `starting`.
    pub transition: u64,
    pub observed: Observed,
    pub progress: Progress,
    pub cancel: CancellationToken,
}

/// A VM whose agent is ready.
pub(super) struct Started {
    pub machine: Arc<dyn Machine>,
    pub agent: Agent,
    pub keeper: Keeper,
    pub notices: mpsc::Receiver<Notice>,
    pub observed: Observed,
}

/// A start that came to nothing.
pub(super) struct Failure {
    pub error: ApiError,
    /// To be killed.
    pub machine: Option<Arc<dyn Machine>>,
    pub observed: Observed,
}

impl Recipe {
    /// Runs it. Safe to stop only by `cancel`: dropping the future leaves what the ledger names.
    pub(super) async fn run(mut self) -> Result<Started, Failure> {
        let mut machine = None;
        match self.lines(&mut machine).await {
            Ok((agent, keeper, notices)) => match machine {
                Some(machine) => Ok(Started {
                    machine,
                    agent,
                    keeper,
                    notices,
                    observed: self.observed,
                }),
                None => Err(self.failure(
                    ApiError::new(ErrorKind::Internal, "a start ended without a machine"),
                    None,
                )),
            },
            Err(error) => Err(self.failure(error, machine)),
        }
    }

    fn failure(self, error: ApiError, machine: Option<Arc<dyn Machine>>) -> Failure {
        Failure {
            error,
            machine,
            observed: self.observed,
        }
    }

    async fn lines(
        &mut self,
        machine: &mut Option<Arc<dyn Machine>>,
    ) -> Result<(Agent, Keeper, mpsc::Receiver<Notice>), ApiError> {
        let mut clock = Clock::new();
        self.progress.stage("prepare", self.spec.kernel.as_str());
        let pin = KernelPin {
            name: self.spec.kernel.clone(),
            sha256: self.spec.kernel_sha256.clone(),
            kernel: self.directory().join(jail_path::KERNEL),
            initramfs: self.directory().join(jail_path::INITRAMFS),
        };
        let advice = self.unless_cancelled((self.deps.advisor)(pin)).await??;
        clock.lap("prepare");

        let uid = self.uid().await?;
        self.disk(uid).await?;
        clock.lap("disk");

        self.jail(uid, advice.initramfs).await?;
        let cgroup = self.cgroup().await?;
        clock.lap("jail");
        self.check_cancelled()?;

        self.progress.stage(
            "launch",
            format!("{} ({})", self.deps.vmm.name(), advice.accelerator),
        );
        self.acquire(&Resource::Machine).await?;
        let config = MachineConfig {
            id: self.id.to_string(),
            directory: self.directory().join(JAIL),
            accelerator: advice.accelerator,
            vcpus: self.spec.vcpus,
            memory_mib: self.spec.memory_mib,
            memory: MemoryBacking::Anonymous,
            kernel_arguments: Vec::new(),
            disks: disks(),
            jail: JailConfig {
                uid,
                kvm_gid: self.deps.settings.kvm_gid,
                cgroup,
                max_file_size: Some(self.spec.disk_mib << 20),
            },
        };
        // Not given up half way: the VMM is either there, with a record, or not.
        let launched = match timeout(LAUNCH_BOUND, self.deps.vmm.launch(config)).await {
            Ok(launched) => launched.map_err(|error| self.launch_error(error))?,
            Err(_) => {
                return Err(self.boot_error(
                    &format!("its VMM did not start within {LAUNCH_BOUND:?}"),
                    None,
                ));
            }
        };
        *machine = Some(launched.clone());
        self.observed.machine = Some(launched.record().clone());
        self.observed.host_boot = banger_host::kernel::boot_id().ok();
        self.store()?;
        clock.lap("vmm");

        self.progress.stage("boot", "waiting for the guest's agent");
        let bound = self.deps.settings.boot_timeout;
        let deadline = Instant::now() + bound;
        let (agent, keeper, notices) =
            Agent::connect(launched.clone(), true, self.deps.settings.agent);
        let hello = self
            .in_guest(&launched, deadline, "its agent did not say hello", async {
                agent.hello(bound).await
            })
            .await?;
        clock.lap("guest_kernel");

        let config = self.boot_config();
        let report = self
            .in_guest(
                &launched,
                deadline,
                "its agent did not become ready",
                async { agent.boot(config, bound).await },
            )
            .await?;
        clock.lap("agent");
        self.became_ready(hello, report, clock);
        Ok((agent, keeper, notices))
    }

    fn became_ready(&mut self, hello: Hello, report: BootReport, clock: Clock) {
        for warning in report.warnings.iter().take(WARNINGS) {
            // Bounded: an answer of the agent is at most a megabyte, and this is a guest's text.
            let warning: String = warning.chars().take(200).collect();
            tracing::warn!(vm = %self.name, %warning, "the guest booted with a warning");
        }
        tracing::debug!(vm = %self.name, phases = %guest_phases(&report), "the guest booted");
        self.observed.init = Some(if report.init.is_some() {
            InitChoice::Image
        } else {
            InitChoice::Agent
        });
        self.observed.boot = Some(Boot::of(hello));
        self.observed.started_at = Some(OffsetDateTime::now_utc());
        self.observed.failure = None;
        self.observed.note = None;
        let created = self
            .observed
            .timings
            .iter()
            .find(|timing| timing.phase == "create")
            .filter(|_| self.transition <= 2)
            .cloned();
        self.observed.timings = created.into_iter().chain(clock.laps).collect();
    }

    fn directory(&self) -> PathBuf {
        self.deps.directory.join(self.id.as_str())
    }

    async fn acquire(&self, resource: &Resource) -> Result<(), ApiError> {
        resources::acquire(&self.deps.store, &*self.deps.host, &self.id, resource).await
    }

    fn held(&self, kind: &str) -> Result<Option<Resource>, ApiError> {
        let held = self.deps.store.resources_of(&self.id)?;
        Ok(held.into_iter().find(|resource| resource.kind() == kind))
    }

    /// The VM's uid; kept from its first start to its end.
    async fn uid(&self) -> Result<Option<u32>, ApiError> {
        let Some(range) = &self.deps.settings.uids else {
            return Ok(None);
        };
        if let Some(Resource::Uid { uid }) = self.held("uid")? {
            return Ok(Some(uid));
        }
        for _ in 0..UID_ATTEMPTS {
            let used: BTreeSet<u32> = self
                .deps
                .store
                .resources()?
                .iter()
                .filter_map(|resource| match resource {
                    Resource::Uid { uid } => Some(*uid),
                    _ => None,
                })
                .collect();
            let Some(uid) = banger_vmm::uid::pick(range, &used) else {
                break;
            };
            let resource = Resource::Uid { uid };
            match self.deps.store.note_resource(&self.id, &resource) {
                Err(StoreError::Claimed { .. }) => continue,
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    self.acquire(&resource).await?;
                    return Ok(Some(uid));
                }
            }
        }
        Err(ApiError::new(
            ErrorKind::TooLarge,
            format!(
                "no user id is left for {}'s VMM between {} and {}",
                self.name,
                range.start(),
                range.end()
            ),
        )
        .hint("delete a VM, or widen vm_uids in the configuration"))
    }

    async fn disk(&self, uid: Option<u32>) -> Result<(), ApiError> {
        if self.held("disk")?.is_some() {
            return Ok(());
        }
        self.progress
            .stage("disk", size::format(self.spec.disk_mib << 20));
        let resource = Resource::Disk {
            mib: self.spec.disk_mib,
            uid,
        };
        self.acquire(&resource).await
    }

    async fn jail(&self, uid: Option<u32>, initramfs: Option<PathBuf>) -> Result<(), ApiError> {
        self.acquire(&Resource::Jail { uid, initramfs }).await
    }

    async fn cgroup(&self) -> Result<Option<String>, ApiError> {
        if !self.deps.settings.cgroups {
            return Ok(None);
        }
        let name = format!("banger-{}/{}", self.deps.settings.instance, self.id);
        let resource = Resource::Cgroup {
            directories: cgroup_directories(&name),
            name: name.clone(),
        };
        self.acquire(&resource).await?;
        Ok(Some(name))
    }

    fn store(&self) -> Result<(), ApiError> {
        self.deps
            .store
            .update_vm(&self.id, State::Starting, self.transition, &self.observed)?;
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), ApiError> {
        if self.cancel.is_cancelled() {
            return Err(cancelled(&self.name));
        }
        Ok(())
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled(&self.name)),
            outcome = work => Ok(outcome),
        }
    }

    /// Work that needs the guest: ends with the deadline, the machine or the start itself.
    async fn in_guest<T>(
        &self,
        machine: &Arc<dyn Machine>,
        deadline: Instant,
        overdue: &str,
        work: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, ApiError> {
        let work = tokio::time::timeout_at(deadline.into(), unless_gone(&**machine, work));
        match self.unless_cancelled(work).await? {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(GuestError::Gone))) => {
                let exit = timeout(Duration::from_secs(5), machine.wait()).await;
                Err(self.ended_early(exit.unwrap_or(Exit::Unknown), machine))
            }
            Ok(Ok(Err(GuestError::Silent { .. }))) | Err(_) => Err(self.boot_error(
                &format!("{overdue} within {:?}", self.deps.settings.boot_timeout),
                Some(machine),
            )),
            Ok(Ok(Err(error))) => {
                let mut error = self.boot_error(&with_sources(&error), Some(machine));
                error.kind = ErrorKind::BootFailed;
                Err(error)
            }
            Ok(Err(exit)) => Err(self.ended_early(exit, machine)),
        }
    }

    fn ended_early(&self, exit: Exit, machine: &Arc<dyn Machine>) -> ApiError {
        let why = match exit {
            Exit::PowerOff => "the guest switched itself off before its agent was ready".to_owned(),
            Exit::Reboot => {
                "the guest restarted before its agent was ready, which a kernel does when it panics"
                    .to_owned()
            }
            Exit::Died { reason } => format!("its VMM ended: {reason}"),
            Exit::Killed => "its VMM was killed".to_owned(),
            Exit::Unknown => "its VMM ended".to_owned(),
        };
        self.boot_error(&why, Some(machine))
    }

    fn boot_error(&self, why: &str, machine: Option<&Arc<dyn Machine>>) -> ApiError {
        let console =
            machine.map_or_else(String::new, |machine| machine.console_tail(CONSOLE_LINES));
        ApiError::new(
            ErrorKind::BootFailed,
            format!("VM {} did not boot: {why}", self.name),
        )
        .hint(format!("banger vm logs --console {}", self.name))
        .details(console.lines().map(str::to_owned).collect())
    }

    fn launch_error(&self, error: VmmError) -> ApiError {
        let text = format!(
            "VM {} cannot be launched: {}",
            self.name,
            with_sources(&error)
        );
        match error {
            VmmError::NotInstalled { program } => ApiError::new(ErrorKind::MissingDependency, text)
                .hint(format!(
                    "install {program}; banger doctor tells what else is missing"
                )),
            VmmError::Unsupported { .. } => {
                ApiError::new(ErrorKind::Unsupported, text).hint("see banger doctor")
            }
            VmmError::InvalidConfig(_) => ApiError::new(ErrorKind::InvalidArgument, text),
            VmmError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ApiError::new(ErrorKind::NoSpace, text)
                    .hint("free space on the file system of the state directory")
            }
            VmmError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ApiError::new(ErrorKind::PermissionDenied, text).hint("see banger doctor")
            }
            VmmError::Timeout { .. } | VmmError::Launch { .. } | VmmError::Gone => {
                ApiError::new(ErrorKind::BootFailed, text).hint("see banger doctor")
            }
            VmmError::Io { .. } => ApiError::new(ErrorKind::BootFailed, text),
        }
    }

    fn boot_config(&self) -> BootConfig {
        BootConfig {
            hostname: self.name.to_string(),
            disks: Disks {
                base: jail_path::BASE.to_owned(),
                base_digest: self.spec.base_digest.clone(),
                upper: jail_path::UPPER.to_owned(),
            },
            init: match self.spec.init {
                Some(InitChoice::Agent) => Init::Agent,
                Some(InitChoice::Image) => Init::Image,
                None => Init::Auto,
            },
            machine_id: Some(machine_id(&self.id)),
            realtime_ns: u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).ok(),
            entropy: ByteString(random_bytes()),
            volumes: self
                .spec
                .image_config
                .volumes
                .iter()
                .map(|path| ByteString(path.as_bytes().to_vec()))
                .collect(),
            resolv_conf: Vec::new(),
            // Started after the boot: whether there is one depends on the init that was found.
            main: None,
            end_by_reset: self.deps.vmm.name() == "firecracker",
        }
    }
}

pub(super) fn cancelled(name: &VmName) -> ApiError {
    ApiError::new(
        ErrorKind::Cancelled,
        format!("the start of VM {name} was cancelled"),
    )
}

/// Found in the guest by their serials, which are the file names.
fn disks() -> Vec<Disk> {
    [(jail_path::BASE, true), (jail_path::UPPER, false)]
        .into_iter()
        .map(|(name, read_only)| Disk {
            serial: name.to_owned(),
            file: name.to_owned(),
            read_only,
        })
        .collect()
}

/// Stable over the VM's life and different from every other's.
fn machine_id(id: &VmId) -> String {
    let digest = Sha256::digest(format!("banger machine-id {id}"));
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A seed for the guest's kernel; none where the host has none to give, which Linux never says
/// once it is up.
fn random_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(length) => bytes.truncate(length),
        Err(_) => bytes.clear(),
    }
    bytes
}

/// Where the guest's time went: each phase and the millisecond of its uptime in which it ended. Bounded,
/// since it is a guest's text.
fn guest_phases(report: &BootReport) -> String {
    let phases = report.phases.iter().take(32).map(|phase| {
        let name: String = phase.name.chars().take(32).collect();
        format!("{name} {}", phase.end_us / 1000)
    });
    phases.collect::<Vec<_>>().join(", ")
}

/// Times the phases of a start.
struct Clock {
    last: Instant,
    laps: Vec<Timing>,
}

impl Clock {
    fn new() -> Self {
        Clock {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        self.laps.push(timing(phase, now - self.last));
        self.last = now;
    }
}

/// Rounded to microseconds: more would be noise in every listing.
pub(super) fn timing(phase: &str, took: Duration) -> Timing {
    Timing {
        phase: phase.to_owned(),
        ms: took.as_micros() as f64 / 1000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_are_stable_and_distinct() {
        let first: VmId = "0123456789ab".parse().unwrap();
        let second: VmId = "0123456789ac".parse().unwrap();
        assert_eq!(machine_id(&first), machine_id(&first));
        assert_ne!(machine_id(&first), machine_id(&second));
        assert_eq!(machine_id(&first).len(), 32);
    }

    #[test]
    fn seeds_differ() {
        assert_eq!(random_bytes().len(), 64);
        assert_ne!(random_bytes(), random_bytes());
    }
}
