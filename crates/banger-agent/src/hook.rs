//! The end of a machine whose init is systemd.
//!
//! systemd-shutdown makes /run/initramfs the root, with the old one in /oldroot, and executes
//! `/shutdown poweroff` (or reboot, halt, kexec) as process 1. That is this program again: it lets
//! the agent tell the host, ends what is left, unmounts the old root and stops the kernel.

use std::path::{Path, PathBuf};

use banger_protocol::agent::Down;
use rustix::mount::{UnmountFlags, unmount};

use crate::{local, log, shutdown, systemd};

/// Rounds of unmounting: what is busy may be free after the next.
const ROUNDS: usize = 3;

pub fn run(verb: &str) -> ! {
    let how = down(verb);
    local::announce_down(how);
    // SAFETY: no memory is involved. Everything but this process.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    // SAFETY: no memory is involved.
    while unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
    rustix::fs::sync();
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = below_old_root(&table);
    for round in 0..ROUNDS {
        let flags = if round + 1 == ROUNDS {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        };
        // What was unmounted in a former round fails, as it should.
        let busy = mounts.iter().filter(|path| unmount(*path, flags).is_err());
        if busy.count() == 0 {
            break;
        }
    }
    rustix::fs::sync();
    let end_by_reset = Path::new("/").join(systemd::END_BY_RESET).exists();
    shutdown::stop_kernel(how, end_by_reset);
    log::warn("this machine cannot be ended");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

fn down(verb: &str) -> Down {
    match verb {
        "reboot" | "kexec" => Down::Reboot,
        _ => Down::PowerOff,
    }
}

/// Mount points in /oldroot, the latest first.
fn below_old_root(mountinfo: &[u8]) -> Vec<PathBuf> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with("/oldroot"))
        .rev()
        .collect()
}

/// Spaces and the like are octal numbers in that file.
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.first_chunk::<3>().filter(|digits| {
            *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = digits {
            let value = digits.iter().fold(0u8, |value, digit| {
                value.wrapping_mul(8).wrapping_add(digit - b'0')
            });
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_old_root_are_found_deepest_first() {
        let table = b"1 0 0:1 / / rw - tmpfs tmpfs rw\n\
            2 1 0:2 / /oldroot rw - overlay overlay rw\n\
            3 2 0:3 / /oldroot/a\\040b\\134 rw - ext4 /dev/vda rw\n\
            4 1 0:4 / /proc rw - proc proc rw\nshort line\n";
        assert_eq!(
            below_old_root(table),
            [Path::new("/oldroot/a b\\"), Path::new("/oldroot")]
        );
    }

    #[test]
    fn verbs_are_systemds() {
        assert_eq!(down("poweroff"), Down::PowerOff);
        assert_eq!(down("halt"), Down::PowerOff);
        assert_eq!(down("reboot"), Down::Reboot);
        assert_eq!(down("kexec"), Down::Reboot);
    }
}
