//! Who a process is, whether it still lives, and how to wait for it or signal it without ever
//! meaning another one.
//!
//! A process id alone is reused; with the time the process started it is not. A [`Handle`] is a
//! pidfd taken after that comparison, so that what it waits for and signals is that process.
//!
//! Limits: a zombie counts as ended. Exit codes are known only for our own children.

mod stat;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use stat::{Stat, parse_stat};

/// A process, told apart from a later one that got the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks from host boot to the start of the process.
    pub start_time: u64,
}

impl Identity {
    /// The process that has this number now; `None` when there is none or it has ended.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        Ok(stat(pid)?.filter(Stat::is_running).map(|stat| Self {
            pid,
            start_time: stat.start_time,
        }))
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_pid();
        Self::of(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(Self::of(self.pid)? == Some(*self))
    }
}

/// `/proc/PID/stat`, or `None` when the process is gone.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(bytes) => parse_stat(&bytes)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat")),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the process can no longer gain privileges by executing a program (`no_new_privs`);
/// `false` when it is gone.
pub fn has_no_new_privs(pid: i32) -> io::Result<bool> {
    match std::fs::read(format!("/proc/{pid}/status")) {
        Ok(status) => Ok(status
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(b"NoNewPrivs:"))
            .any(|value| value.trim_ascii() == b"1")),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildExit {
    Code(i32),
    Signal(i32),
}

/// An open process.
#[derive(Debug)]
pub struct Handle {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
}

impl Handle {
    /// Opens the process; `None` when it has ended or its number means another process now.
    /// Needs a tokio runtime.
    pub fn open(identity: Identity) -> io::Result<Option<Self>> {
        let Some(pid) = Some(identity.pid)
            .filter(|pid| *pid > 0)
            .and_then(Pid::from_raw)
        else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Asked after opening: if the number still means the process we want, so does the pidfd.
        if !identity.is_alive()? {
            return Ok(None);
        }
        // SAFETY: the `OwnedFd` is owned by the `AsyncFd` from here on and nobody closes or
        // replaces its descriptor before the `AsyncFd` is dropped.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        Ok(Some(Self { identity, pidfd }))
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Resolves when the process has ended; may be called many times and by many.
    pub async fn ended(&self) -> io::Result<()> {
        // The readiness is kept: an ended process stays readable.
        drop(self.pidfd.readable().await?);
        Ok(())
    }

    /// Sends a signal; `false` when the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the exit status of an ended child. `None` when it has not ended, is not our child,
    /// or somebody else took the status.
    pub fn reap(&self) -> io::Result<Option<ChildExit>> {
        let status = match waitid(
            WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(status) => status,
            Err(Errno::CHILD) => None,
            Err(errno) => return Err(errno.into()),
        };
        Ok(status.and_then(|status| {
            let code = status.exit_status().map(ChildExit::Code);
            code.or_else(|| status.terminating_signal().map(ChildExit::Signal))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_is_alive_and_an_older_one_of_its_number_is_not() {
        let me = Identity::current().unwrap();
        assert!(me.is_alive().unwrap());
        let older = Identity {
            start_time: me.start_time - 1,
            ..me
        };
        assert!(!older.is_alive().unwrap());
        assert_eq!(Identity::of(i32::MAX).unwrap(), None);
        assert_eq!(Identity::of(-1).unwrap(), None);
        assert!(stat(me.pid).unwrap().unwrap().resident_bytes() > 100_000);
    }

    #[test]
    fn no_new_privs_is_seen() {
        let mut child = Command::new("setpriv")
            .args(["--no-new-privs", "cat"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while !has_no_new_privs(pid).unwrap() {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!has_no_new_privs(pid).unwrap());
        assert!(!has_no_new_privs(i32::MAX).unwrap());
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "reaped through the handle")]
    async fn several_waiters_see_the_end_and_one_gets_the_status() {
        let child = Command::new("sleep").arg("300").spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap())
            .unwrap()
            .unwrap();
        let handle = Handle::open(identity).unwrap().unwrap();
        assert_eq!(handle.reap().unwrap(), None);
        let both = async { tokio::join!(handle.ended(), handle.ended()) };
        assert!(handle.signal(Signal::TERM).unwrap());
        let (one, two) = both.await;
        one.unwrap();
        two.unwrap();
        // Ended and not reaped: a zombie is not alive.
        assert!(!identity.is_alive().unwrap());
        assert_eq!(handle.reap().unwrap(), Some(ChildExit::Signal(15)));
        assert_eq!(handle.reap().unwrap(), None);
        handle.ended().await.unwrap();
        assert!(!handle.signal(Signal::KILL).unwrap());
        assert!(Handle::open(identity).unwrap().is_none());
    }

    #[tokio::test]
    async fn the_wrong_start_time_or_number_opens_nothing() {
        let me = Identity::current().unwrap();
        let cases = [
            Identity {
                start_time: me.start_time + 1,
                ..me
            },
            Identity {
                pid: 0,
                start_time: 0,
            },
            Identity {
                pid: -1,
                start_time: 0,
            },
            Identity {
                pid: i32::MAX,
                start_time: 1,
            },
        ];
        for identity in cases {
            assert!(Handle::open(identity).unwrap().is_none(), "{identity:?}");
        }
        // Not a child: alive, but no status to take.
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        if let Some(identity) = Identity::of(parent).unwrap() {
            assert_eq!(
                Handle::open(identity).unwrap().unwrap().reap().unwrap(),
                None
            );
        }
    }
}
