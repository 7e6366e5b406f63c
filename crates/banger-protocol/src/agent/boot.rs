//! What makes a machine of a kernel with an agent.

use serde::{Deserialize, Serialize};

use super::ProcessSpec;
use crate::build::BuildInfo;
use crate::bytes::ByteString;

/// Everything about the VM that its guest must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    pub hostname: String,
    pub disks: Disks,
    pub init: Init,
    /// 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Nanoseconds since 1970; the guest keeps its own clock without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime_ns: Option<u64>,
    /// Random bytes for the guest's kernel.
    #[serde(default)]
    pub entropy: ByteString,
    /// Paths of the image that lie on the writable disk itself rather than on the overlay.
    #[serde(default)]
    pub volumes: Vec<ByteString>,
    /// Lines of /etc/resolv.conf; none leaves the image's.
    #[serde(default)]
    pub resolv_conf: Vec<String>,
    /// `main` of this boot, started as soon as the machine is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<ProcessSpec>,
    /// The VMM ends on a reset and not on power-off (Firecracker).
    #[serde(default)]
    pub end_by_reset: bool,
}

/// Disks by their virtio serial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// Read-only EROFS.
    pub base: String,
    /// Of the base. The writable disk is only ever used with the one it was first used with.
    pub base_digest: String,
    /// ext4, writable.
    pub upper: String,
}

/// Process 1 of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    Agent,
    /// The image's own; booting fails where it has none.
    Image,
    /// The image's where that is systemd, else the agent.
    Auto,
}

/// The machine is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// In order; times since the guest's kernel started.
    pub phases: Vec<Phase>,
    /// The image's init that was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ByteString>,
    /// `uname -r`.
    pub kernel: String,
    pub build: BuildInfo,
    /// What went wrong without stopping the boot.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// `kernel`, `modules`, `hello`, `disks`, `overlay`, `identity`, …
    pub name: String,
    /// When it ended, in microseconds since the guest's kernel started.
    pub end_us: u64,
}
