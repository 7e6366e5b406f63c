//! What is known of a stored kernel: `manifest.json` beside its files.

use serde::{Deserialize, Serialize};

use super::KernelName;

/// Written once, when the kernel is published. Unknown fields are ignored, so that an older
/// banger can still list what a newer one stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: KernelName,
    /// `debian`, or empty where nobody said.
    #[serde(default)]
    pub distro: String,
    /// Always `x86_64`.
    pub arch: String,
    /// What `uname -r` prints in the guest, read from the image.
    pub kernel_version: String,
    /// Hexadecimal SHA-256 of `vmlinux`.
    pub sha256: String,
    /// Bytes of `vmlinux`.
    pub size: u64,
    /// `apt:PACKAGE=VERSION sha256:DIGEST` or `import:FILE`.
    pub source: String,
    /// The catalog entry it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_entry: Option<String>,
    /// RFC 3339, as the caller gave it.
    pub imported_at: String,
    /// Whether the image has a PVH entry point; QEMU boots an uncompressed image by no other.
    pub pvh: bool,
    /// Paths below `modules/`, in the order in which they must be loaded before anything is
    /// mounted. Empty where everything is built in.
    #[serde(default)]
    pub boot_modules: Vec<String>,
    /// The same for a VM whose guest link is vsock, loaded after `boot_modules`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vsock_modules: Vec<String>,
    /// Number of files below `modules/` that are modules, boot ones included.
    #[serde(default)]
    pub module_count: usize,
    /// Bytes of everything below `modules/`.
    #[serde(default)]
    pub modules_size: u64,
    /// Hexadecimal SHA-256 over the paths and contents below `modules/`; part of the key of the
    /// initramfs cache.
    #[serde(default)]
    pub modules_digest: String,
    /// Words this kernel wants on its command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
}
