//! What `/dev/kvm` says of itself. That it says the right things does not mean that it works.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The one version of KVM's interface there has ever been since 2.6.22.
const API_VERSION: i32 = 12;

// _IO(KVMIO, 0x00), include/uapi/linux/kvm.h
nix::ioctl_none!(kvm_get_api_version, 0xae, 0x00);

/// The state of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmDevice {
    Absent,
    /// It is there, and this user may not open it.
    Forbidden,
    /// It opens or answers wrongly.
    Broken {
        reason: String,
    },
    /// It opens and answers.
    Usable,
}

/// Looks at `/dev/kvm`.
pub fn look() -> KvmDevice {
    look_at(Path::new("/dev/kvm"))
}

pub(super) fn look_at(path: &Path) -> KvmDevice {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound => KvmDevice::Absent,
                ErrorKind::PermissionDenied => KvmDevice::Forbidden,
                _ if [Some(libc::ENODEV), Some(libc::ENXIO)].contains(&error.raw_os_error()) => {
                    KvmDevice::Absent
                }
                _ => KvmDevice::Broken {
                    reason: format!("it cannot be opened: {error}"),
                },
            };
        }
    };
    // SAFETY: the descriptor is open, and the request takes no argument.
    match unsafe { kvm_get_api_version(std::os::fd::AsRawFd::as_raw_fd(&file)) } {
        Ok(API_VERSION) => KvmDevice::Usable,
        Ok(version) => KvmDevice::Broken {
            reason: format!("its interface has version {version} instead of {API_VERSION}"),
        },
        Err(error) => KvmDevice::Broken {
            reason: format!("it does not tell its version: {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn things_that_are_no_kvm() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        assert_eq!(look_at(&directory.join("none")), KvmDevice::Absent);
        let file = directory.join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(look_at(&file), KvmDevice::Broken { .. }));
        assert!(matches!(
            look_at(Path::new("/dev/null")),
            KvmDevice::Broken { .. }
        ));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
        if !rustix::process::geteuid().is_root() {
            assert_eq!(look_at(&file), KvmDevice::Forbidden);
        }
    }
}
