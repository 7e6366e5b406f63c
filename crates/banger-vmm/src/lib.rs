//! Runs one machine with one VMM.
//!
//! This crate knows directories, paths and numbers; it knows neither VM names nor images. A caller
//! prepares a *jail directory* which holds the fixed names below, describes the machine in a
//! [`MachineConfig`], and gets a [`Machine`] back. Everything that outlives the caller is in the
//! jail directory, so that a later process can [`Vmm::adopt`] what an earlier one launched.
//!
//! Limits: one VMM process is one machine; a driver never retries a launch; nothing here writes
//! outside the jail directory and the machine's cgroup.

pub mod console;
pub mod fake;
pub mod jail;
mod log;
pub mod probe;
pub mod qemu;
mod socket;
pub mod uid;
mod validate;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Names inside a jail directory. They are the same in every VM, so that a snapshot taken in one
/// directory can be restored in another.
pub mod jail_path {
    /// Uncompressed or compressed kernel image.
    pub const KERNEL: &str = "kernel";
    /// newc cpio archive: the agent as `/init`, and modules.
    pub const INITRAMFS: &str = "initramfs";
    /// Read-only root file system.
    pub const BASE: &str = "base";
    /// The VM's writable disk.
    pub const UPPER: &str = "upper";
    /// Unix socket of the byte pipe to the guest agent.
    pub const AGENT_SOCKET: &str = "agent.sock";
    /// Unix socket of the VMM's own control API (QMP, Firecracker's HTTP API).
    pub const API_SOCKET: &str = "api.sock";
    /// Unix socket of the serial console, where the VMM has one.
    pub const CONSOLE_SOCKET: &str = "console.sock";
    /// The serial console's recent output, bounded.
    pub const CONSOLE_LOG: &str = "console.log";
    /// What the VMM printed on stdout and stderr, bounded.
    pub const VMM_LOG: &str = "vmm.log";
    /// FIFO between the VMM's stdout and stderr and [`VMM_LOG`]: while nobody reads it, the kernel
    /// keeps 64 KiB and the VMM's further words are dropped.
    pub const VMM_FIFO: &str = "vmm.fifo";
    /// Guest memory, where it is a file.
    pub const MEMORY: &str = "memory";
    /// Written by the launcher before it becomes the VMM: process id and start time.
    pub const PROCESS: &str = "process.json";
}

/// How guest instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation through `/dev/kvm`.
    Kvm,
    /// QEMU's translator: works everywhere, 10 to 50 times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        })
    }
}

/// Where guest memory lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryBacking {
    /// Private to the VMM process; cannot be forked.
    Anonymous,
    /// A file in the jail directory, shared; can be forked.
    SharedFile,
}

/// A block device of the machine, found in the guest by its virtio serial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// virtio serial, at most 20 bytes of `[a-z0-9-]`.
    pub serial: String,
    /// File name inside the jail directory.
    pub file: String,
    pub read_only: bool,
}

/// What the launcher gives up and where it puts the VMM before it executes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailConfig {
    /// The VMM's own user and group id; `None` keeps the caller's (an ordinary user's daemon).
    pub uid: Option<u32>,
    /// Supplementary group kept, normally the one that owns `/dev/kvm`; never group 0.
    pub kvm_gid: Option<u32>,
    /// Name of the cgroup to make for the VMM, below the caller's; `None` where cgroups are not
    /// writable.
    pub cgroup: Option<String>,
    /// Highest number of bytes of any file the VMM may write (`RLIMIT_FSIZE`).
    pub max_file_size: Option<u64>,
}

/// Everything a driver needs to run one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// VM id, `[a-z0-9]`, at most 32 bytes: names the cgroup and the QEMU process.
    pub id: String,
    /// Jail directory: absolute, existing, holding [`jail_path::KERNEL`] and
    /// [`jail_path::INITRAMFS`] and the disks' files.
    pub directory: PathBuf,
    pub accelerator: Accelerator,
    /// Number of virtual processors, at least 1.
    pub vcpus: u32,
    /// Guest memory in MiB, at least 64.
    pub memory_mib: u64,
    pub memory: MemoryBacking,
    /// Words added to the kernel command line. Nothing about the VM belongs here.
    pub kernel_arguments: Vec<String>,
    pub disks: Vec<Disk>,
    pub jail: JailConfig,
}

/// What is kept of a running machine so that another process can adopt it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Name of the driver that launched it.
    pub vmm: String,
    /// Version text of the VMM binary.
    pub vmm_version: String,
    pub config: MachineConfig,
    pub pid: i32,
    /// Clock ticks since host boot at which the process started (`/proc/PID/stat` field 22).
    pub start_time: u64,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Exit {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// We ended it with [`Machine::kill`].
    Killed,
    /// The VMM process ended without the guest asking for it.
    Died {
        /// One sentence: exit code or signal, and the VMM's last words.
        reason: String,
    },
    /// It ended while nobody watched, so nothing is known about how.
    Unknown,
}

/// What a driver can do on this host; decided before work starts, never a stub method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub accelerators: Vec<Accelerator>,
    pub snapshot: bool,
    pub fork: bool,
    pub balloon: bool,
    /// Most virtual processors one machine may have.
    pub max_vcpus: u32,
}

/// A connected byte pipe into the guest.
pub trait GuestStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> GuestStream for T {}

/// Why a driver could not do something.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    #[error("{program} is not installed")]
    NotInstalled { program: String },
    #[error("the VMM does not support {what}")]
    Unsupported { what: String },
    #[error("invalid machine configuration: {0}")]
    InvalidConfig(String),
    #[error("cannot {deed} {path}")]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the VMM ended at start: {reason}")]
    Launch { reason: String },
    #[error("{what} did not finish within {after:?}")]
    Timeout { what: &'static str, after: Duration },
    #[error("the machine is gone")]
    Gone,
}

/// A driver: one per kind of VMM.
pub trait Vmm: Send + Sync {
    /// `qemu`, `firecracker`, `fake`.
    fn name(&self) -> &'static str;
    fn capabilities(&self) -> Capabilities;
    /// Starts the machine. On return the VMM process exists and its sockets accept connections;
    /// on error nothing of it remains but log files in the jail directory.
    fn launch(&self, config: MachineConfig) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>>;
    /// Takes over a machine another process launched; `None` when that process no longer lives
    /// (compared by pid *and* start time, and by its control socket answering).
    fn adopt(
        &self,
        record: MachineRecord,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>>;
}

/// A running VMM process. Dropping it ends nothing.
pub trait Machine: Send + Sync {
    fn record(&self) -> &MachineRecord;
    /// Opens the byte pipe to the guest's agent. One client at a time; the port number is used
    /// by drivers whose transport has ports.
    fn connect(&self, port: u32) -> BoxFuture<'_, Result<Box<dyn GuestStream>, VmmError>>;
    /// Resolves when the VMM process has ended and been reaped. May be called many times.
    fn wait(&self) -> BoxFuture<'_, Exit>;
    /// Ends the process and waits for its end; idempotent.
    fn kill(&self) -> BoxFuture<'_, Result<(), VmmError>>;
    /// The last lines of the serial console, made printable, at most `lines`.
    fn console_tail(&self, lines: usize) -> String;
}
