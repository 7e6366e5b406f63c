//! Everything the launcher gives up, in an order in which each step is still allowed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// A VMM opens a few files per device.
const OPEN_FILES: u64 = 1024;

/// Closes all descriptors but 0, 1, 2 and `kept`.
pub(super) fn close_all_but(kept: &OwnedFd) -> io::Result<()> {
    let kept = u32::try_from(kept.as_raw_fd())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    if kept > 3 {
        close_range(3, kept - 1)?;
    }
    close_range(kept + 1, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the launcher has one thread and owns no descriptor in the range: all it opened is
    // `kept` and the standard three.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn limit_resources(max_file_size: Option<u64>) -> io::Result<()> {
    lower(Resource::Nofile, OPEN_FILES)?;
    // A dump would hold the guest's memory.
    lower(Resource::Core, 0)?;
    if let Some(bytes) = max_file_size {
        lower(Resource::Fsize, bytes)?;
    }
    Ok(())
}

/// Raising is not ours to do: a tighter limit of the daemon's stays.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let maximum = getrlimit(resource)
        .maximum
        .map_or(limit, |maximum| maximum.min(limit));
    Ok(setrlimit(
        resource,
        Rlimit {
            current: Some(maximum),
            maximum: Some(maximum),
        },
    )?)
}

/// All signals as a new process has them, but SIGXFSZ ignored: a disk write past the limit shall
/// fail as an I/O error in the guest and not end the VMM.
pub(super) fn reset_signals() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        let action = if number == libc::SIGXFSZ {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        // SAFETY: sets a disposition, no handler; numbers that cannot be set (SIGKILL, SIGSTOP,
        // those libc keeps for itself) give an error, which is as good.
        unsafe { libc::signal(number, action) };
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(io::Error::from)
}

/// Gives up identity and capabilities for good, `no_new_privs` being set.
pub(super) fn drop_all(uid: Option<u32>, kvm_gid: Option<u32>) -> Result<(), String> {
    let fail = |deed: &str| {
        let deed = deed.to_owned();
        move |error: Errno| format!("cannot {deed}: {error}")
    };
    drop_bounding_set().map_err(fail("empty the capability bounding set"))?;
    if let Some(uid) = uid {
        if uid == 0 {
            return Err("cannot run a VMM as uid 0 of its own".into());
        }
        // Group 0 opens files of the host that are only root's to read.
        let groups: Vec<Gid> = kvm_gid
            .into_iter()
            .filter(|gid| *gid != 0)
            .map(Gid::from_raw)
            .collect();
        rustix::thread::set_thread_groups(&groups).map_err(fail("drop supplementary groups"))?;
        let gid = Gid::from_raw(uid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail("change the group"))?;
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail("change the user"))?;
    }
    rustix::thread::clear_ambient_capability_set().map_err(fail("clear ambient capabilities"))?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )
    .map_err(fail("drop capabilities"))
}

/// Needs CAP_SETPCAP; whoever lacks it gains nothing from the set either, thanks to
/// `no_new_privs`.
fn drop_bounding_set() -> Result<(), Errno> {
    for number in 0..64 {
        // SAFETY: takes two integers and touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if result == 0 {
            continue;
        }
        match Errno::from_io_error(&io::Error::last_os_error()) {
            // Past the last capability this kernel knows.
            Some(Errno::INVAL) => return Ok(()),
            Some(Errno::PERM) => return Ok(()),
            Some(errno) => return Err(errno),
            None => return Ok(()),
        }
    }
    Ok(())
}
