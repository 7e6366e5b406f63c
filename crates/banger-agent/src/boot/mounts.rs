//! The file systems every Linux program expects.

use std::ffi::CStr;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use super::files::ensure_directory;
use super::{BootError, Progress};

struct Mount {
    at: &'static str,
    kind: &'static CStr,
    flags: MountFlags,
    options: &'static CStr,
    /// Without it nothing works.
    needed: bool,
}

const NOSUID: MountFlags = MountFlags::NOSUID;
const NODEV: MountFlags = MountFlags::NODEV;
const NOEXEC: MountFlags = MountFlags::NOEXEC;

/// In order. /run may execute: the agent itself lies there for the image's init.
const MOUNTS: [Mount; 8] = [
    Mount {
        at: "/dev",
        kind: c"devtmpfs",
        flags: NOSUID,
        options: c"mode=0755",
        needed: true,
    },
    Mount {
        at: "/proc",
        kind: c"proc",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    },
    Mount {
        at: "/sys",
        kind: c"sysfs",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    },
    Mount {
        at: "/run",
        kind: c"tmpfs",
        flags: NOSUID.union(NODEV),
        options: c"mode=0755,size=20%,nr_inodes=800k",
        needed: true,
    },
    Mount {
        at: "/dev/pts",
        kind: c"devpts",
        flags: NOSUID.union(NOEXEC),
        options: c"gid=5,mode=620,ptmxmode=666",
        needed: false,
    },
    Mount {
        at: "/dev/shm",
        kind: c"tmpfs",
        flags: NOSUID.union(NODEV),
        options: c"mode=1777",
        needed: false,
    },
    Mount {
        at: "/dev/mqueue",
        kind: c"mqueue",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: false,
    },
    Mount {
        at: "/sys/fs/cgroup",
        kind: c"cgroup2",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"nsdelegate",
        needed: false,
    },
];

/// What programs expect in /dev beside the devices.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// A symlink of the image's could lead anywhere, by way of /proc even to the root itself.
fn ensure_mount_point(path: &Path) -> std::io::Result<()> {
    if path.is_symlink() {
        std::fs::remove_file(path)?;
    }
    ensure_directory(path, 0o755)
}

/// Mounts all of them in the root of this process.
pub fn mount_all(progress: &mut Progress) -> Result<(), BootError> {
    for entry in &MOUNTS {
        let result = ensure_mount_point(Path::new(entry.at)).and_then(|()| {
            Ok(mount(
                entry.kind,
                entry.at,
                entry.kind,
                entry.flags,
                entry.options,
            )?)
        });
        match result {
            Err(error) if entry.needed => return Err(BootError::io("mount", entry.at)(error)),
            result => progress.tolerate(&format!("mount {}", entry.at), result),
        }
    }
    for (link, target) in DEV_LINKS {
        progress.tolerate(
            &format!("link {link}"),
            std::os::unix::fs::symlink(target, link),
        );
    }
    progress.tolerate("create /tmp", ensure_directory(Path::new("/tmp"), 0o1777));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_mount_point_is_no_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        symlink("/", path("run")).unwrap();
        std::fs::write(path("dev"), "").unwrap();
        std::fs::create_dir(path("sys")).unwrap();
        std::fs::write(path("sys/kept"), "").unwrap();
        for name in ["run", "dev", "sys", "proc"] {
            ensure_mount_point(&path(name)).unwrap();
            assert!(path(name).symlink_metadata().unwrap().is_dir(), "{name}");
        }
        assert!(path("sys/kept").exists());
    }
}
