//! The QEMU driver: direct kernel boot on a `q35` machine, under KVM or QEMU's own translator.
//!
//! ```text
//! launch:  check ── launcher ── sockets appear ── QMP hello ── console joined ── cont
//! adopt:   pidfd ── QMP hello, same name ── console joined
//! end:     pidfd readable ── last words read ── status taken ── cgroup removed ── Exit known
//! ```
//!
//! The machine starts paused and runs only once its control channel and console are attached, so
//! that neither the first line nor the first event is lost. One task per machine watches its
//! process; two read its console and its log; one reads QMP.
//!
//! Limits: q35 only, since `microvm` does not boot every time under TCG; one control connection,
//! so one process at a time can hold a machine; network is not wired up.

mod binary;
mod command_line;
mod exit;
mod machine;
mod qmp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use crate::jail::{self, LaunchSpec, Launcher};
use crate::log::DEFAULT_CAP;
use crate::socket::JailDirectory;
use crate::{
    Accelerator, Capabilities, Machine, MachineConfig, MachineRecord, Vmm, VmmError, jail_path,
    probe, validate,
};

pub use binary::Binary;
use machine::QemuMachine;

/// Most processors `q35` takes without interrupt remapping.
const MAX_VCPUS: u32 = 255;

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// Name or path of the binary.
    pub binary: PathBuf,
    pub launcher: Launcher,
    /// Size past which `console.log` loses its older half, in bytes.
    pub console_cap: u64,
    /// Longest a launch may take, from spawning to the machine running.
    pub launch_limit: Duration,
    /// Longest QEMU may take to answer one control command.
    pub answer_limit: Duration,
}

impl QemuConfig {
    /// Debian's binary, 1 MiB of console, a launch bound for a busy host.
    pub fn new(launcher: Launcher) -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            launcher,
            console_cap: DEFAULT_CAP,
            launch_limit: Duration::from_secs(30),
            // A healthy QEMU answers in a millisecond; a starving host needs patience.
            answer_limit: Duration::from_secs(10),
        }
    }
}

/// The driver.
#[derive(Debug)]
pub struct Qemu {
    config: QemuConfig,
    binaries: binary::Cache,
}

impl Qemu {
    pub fn new(config: QemuConfig) -> Self {
        Self {
            config,
            binaries: binary::Cache::default(),
        }
    }

    /// Version and machine type of the binary; asked once until the file changes.
    pub async fn binary(&self) -> Result<Arc<Binary>, VmmError> {
        self.binaries.inspect(&self.config.binary).await
    }

    async fn launch_machine(&self, config: MachineConfig) -> Result<Arc<dyn Machine>, VmmError> {
        validate::check(&config, MAX_VCPUS)?;
        let binary = self.binary().await?;
        let io = |deed| {
            let path = config.directory.clone();
            move |source| VmmError::Io { deed, path, source }
        };
        let directory = JailDirectory::open(&config.directory).map_err(io("open"))?;
        clear(&directory, config.jail.uid).map_err(io("clear the remains of an earlier run in"))?;
        let log = machine::Streams::create(&directory, self.config.console_cap)
            .map_err(io("make log files in"))?;
        let vmm_end =
            jail::open_fifo(&directory, jail_path::VMM_FIFO).map_err(io("open the FIFO in"))?;
        let spec = LaunchSpec {
            directory: config.directory.clone(),
            program: binary.path.clone(),
            args: command_line::render(&config, &binary.machine_type),
            jail: config.jail.clone(),
            owned_files: config
                .disks
                .iter()
                .filter(|disk| !disk.read_only)
                .map(|disk| disk.file.clone())
                .collect(),
        };
        let launched = jail::launch(&self.config.launcher, &spec, vmm_end)
            .await
            .map_err(|reason| VmmError::Launch { reason })?;
        let result = tokio::time::timeout(
            self.config.launch_limit,
            QemuMachine::start(
                config,
                binary.version.clone(),
                directory,
                log,
                &launched,
                self.config.answer_limit,
            ),
        )
        .await
        .unwrap_or(Err(VmmError::Timeout {
            what: "starting QEMU",
            after: self.config.launch_limit,
        }));
        match result {
            Ok(starting) => Ok(starting.watch(launched)?),
            Err(error) => {
                launched.abandon().await;
                clear_directory(&spec.directory);
                Err(error)
            }
        }
    }
}

impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> Capabilities {
        let mut accelerators = vec![Accelerator::Tcg];
        if probe::device::look() == probe::device::KvmDevice::Usable {
            accelerators.insert(0, Accelerator::Kvm);
        }
        Capabilities {
            accelerators,
            snapshot: false,
            fork: false,
            balloon: false,
            max_vcpus: MAX_VCPUS,
        }
    }

    fn launch(&self, config: MachineConfig) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        self.launch_machine(config).boxed()
    }

    fn adopt(
        &self,
        record: MachineRecord,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        async move {
            if record.vmm != self.name() {
                return Err(VmmError::Unsupported {
                    what: format!("a machine of driver {}", record.vmm),
                });
            }
            let adopted =
                QemuMachine::adopt(record, self.config.console_cap, self.config.answer_limit)
                    .await?;
            Ok(adopted.map(|machine| machine as Arc<dyn Machine>))
        }
        .boxed()
    }
}

/// Removes what an earlier run left under the names of this one.
fn clear(directory: &JailDirectory, uid: Option<u32>) -> std::io::Result<()> {
    for name in [
        jail_path::AGENT_SOCKET,
        jail_path::API_SOCKET,
        jail_path::CONSOLE_SOCKET,
        jail_path::VMM_FIFO,
        jail_path::PROCESS,
        jail_path::MEMORY,
    ] {
        directory.unlink(name)?;
    }
    // A log that is not ours any more would stop the launch; under a uid of its own the VMM
    // could have made it.
    if uid.is_some() {
        for name in [jail_path::CONSOLE_LOG, jail_path::VMM_LOG] {
            directory.unlink(name)?;
        }
    }
    Ok(())
}

/// After a failed launch: nothing but log files stays.
fn clear_directory(path: &std::path::Path) {
    let cleared = JailDirectory::open(path).and_then(|directory| clear(&directory, None));
    if let Err(error) = cleared {
        tracing::warn!(path = %path.display(), %error, "a failed launch left files");
    }
}
