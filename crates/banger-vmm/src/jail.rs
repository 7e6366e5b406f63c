//! Starts a VMM with nothing but what it needs, and cleans up after one.
//!
//! The daemon executes itself again as a *launcher*: a short, single-threaded program that reads
//! a [`LaunchSpec`] from its standard input, gives everything up and becomes the VMM
//! ([`launcher_main`]). Why not between fork and exec in the daemon: a forked child of a threaded
//! process may not allocate, and this is too much to do without.
//!
//! ```text
//! daemon ── spawn ──> launcher: spec on stdin ── exec ──> VMM
//!    │                    │ error, or end of file at exec
//!    └──── reads ─────────┘ (stdout, close-on-exec)
//! ```
//!
//! Invariants of the process that results: its own session; cwd = jail directory; open files 0
//! (/dev/null), 1 and 2 (the log FIFO) and no other; no capability in any set, `no_new_privs`;
//! as root's child the VM's own uid and gid and no group but the one that owns `/dev/kvm`, and that
//! not where it is root's own. The launcher is without a terminal, leads its session and has
//! `no_new_privs` before it enters the jail directory, so whoever is there without these
//! is somebody else.
//!
//! Of the jail directory: under a root daemon it belongs to root and to the VM's group, with the
//! sticky bit, so the VMM can make its sockets but not replace a file of ours. `process.json` and
//! the logs belong to the daemon's user, and are believed only as such.
//!
//! Limits: no chroot (the VMM sees the host's world-readable files); under an ordinary user's
//! daemon the VMM runs as that user.

mod launcher;
mod leftover;
mod privileges;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use banger_host::process::{self, Handle, Identity};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::JailConfig;

pub use launcher::launcher_main;
pub use leftover::{Leftover, end_leftover, leftover};

/// Longest spec and error that cross the pipes: what a pipe holds without a reader.
const MESSAGE_LIMIT: usize = 60 << 10;
/// The launcher does a few system calls; only a stuck file system takes longer.
const LAUNCH_LIMIT: Duration = Duration::from_secs(15);
/// Longest a killed process takes to go away, memory of hundreds of GiB included.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Begins what the launcher has to say in the log it shares with the VMM.
pub(crate) const NOTE: &str = "banger: ";

/// How the daemon starts its own launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// `/proc/self/exe` of a daemon.
    pub program: PathBuf,
    /// Arguments that make it call [`launcher_main`].
    pub args: Vec<String>,
}

/// What the launcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    pub directory: PathBuf,
    /// Absolute path of the VMM.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    pub jail: JailConfig,
    /// Files in the directory the VMM writes, given to its user.
    pub owned_files: Vec<String>,
}

/// What the launcher answers when it could not become the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchFailure {
    /// `cannot <deed>: <cause>`
    pub(crate) message: String,
}

/// A started VMM process, killed when dropped before [`Launched::keep`].
#[derive(Debug)]
pub(crate) struct Launched {
    handle: Option<Handle>,
    cgroup: Option<String>,
}

impl Launched {
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// The launch succeeded: from now on the process lives on its own.
    pub(crate) fn keep(mut self) -> Option<Handle> {
        self.handle.take()
    }

    /// Kills the process, takes its status and removes its cgroup. A process that does not die in
    /// time (stuck in a driver of the host's) is waited for in the background.
    pub(crate) async fn abandon(mut self) {
        if let Some(handle) = self.handle.take() {
            let finishing = tokio::spawn(finish_off(handle, self.cgroup.take()));
            if tokio::time::timeout(KILL_LIMIT, finishing).await.is_err() {
                tracing::warn!("a VMM that was killed does not end");
            }
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        let _ = handle.signal(rustix::process::Signal::KILL);
        // Cancelled: somebody must still take the exit status and the cgroup away.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(finish_off(handle, self.cgroup.take()));
        }
    }
}

async fn finish_off(handle: Handle, cgroup: Option<String>) {
    let _ = handle.signal(rustix::process::Signal::KILL);
    let _ = handle.ended().await;
    let _ = handle.reap();
    if let Some(name) = cgroup {
        remove_cgroup(name).await;
    }
}

/// Removes the cgroup of an ended VMM; absence is success. Failure is logged: a cgroup that stays
/// costs nothing, and release of the jail tries again.
pub(crate) async fn remove_cgroup(name: String) {
    let removal = tokio::task::spawn_blocking(move || leftover::remove_cgroup(&name)).await;
    match removal {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a VMM's cgroup stays"),
        Err(error) => tracing::warn!(%error, "a VMM's cgroup stays"),
    }
}

/// Runs the launcher up to the exec of the VMM. `log` becomes the VMM's stdout and stderr.
pub(crate) async fn launch(
    launcher: &Launcher,
    spec: &LaunchSpec,
    log: OwnedFd,
) -> Result<Launched, String> {
    let message = serde_json::to_vec(spec).map_err(|error| error.to_string())?;
    if message.len() > MESSAGE_LIMIT {
        return Err(format!(
            "a launch spec of {} bytes is too long",
            message.len()
        ));
    }
    let start = |error: std::io::Error| {
        format!(
            "cannot start the launcher {}: {error}",
            launcher.program.display()
        )
    };
    // Not tokio's Command: it would reap the child behind our back once its handle is dropped.
    let mut child = std::process::Command::new(&launcher.program)
        .args(&launcher.args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(start)?;
    // It waits for its spec, so it lives, and its number cannot mean another process.
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let launched = Launched {
        handle: open_child(pid).map_err(start)?,
        cgroup: spec.jail.cgroup.clone(),
    };
    let sent = match child.stdin.take() {
        // The pipe holds the whole message, so this never waits for the launcher.
        Some(mut stdin) => std::io::Write::write_all(&mut stdin, &message),
        None => Ok(()),
    };
    let answer = match child.stdout.take() {
        Some(stdout) => read_answer(OwnedFd::from(stdout)).await,
        None => Ok(Vec::new()),
    };
    // `Child` neither kills nor reaps when it is dropped; the handle does.
    drop(child);
    let failure = match (sent, answer) {
        (_, Ok(answer)) if !answer.is_empty() => {
            match serde_json::from_slice::<LaunchFailure>(&answer) {
                Ok(failure) => failure.message,
                Err(_) => "the launcher gave an unreadable answer".into(),
            }
        }
        (Ok(()), Ok(_)) => return Ok(launched),
        (Err(error), _) => format!("cannot send the launcher its spec: {error}"),
        (_, Err(error)) => format!("the launcher gave no answer: {error}"),
    };
    launched.abandon().await;
    Err(failure)
}

fn open_child(pid: i32) -> std::io::Result<Option<Handle>> {
    let Some(stat) = process::stat(pid)? else {
        return Ok(None);
    };
    Handle::open(Identity {
        pid,
        start_time: stat.start_time,
    })
}

async fn read_answer(pipe: OwnedFd) -> std::io::Result<Vec<u8>> {
    let reader = pipe::Receiver::from_owned_fd(pipe)?;
    let mut answer = Vec::new();
    let limit = u64::try_from(MESSAGE_LIMIT).unwrap_or(u64::MAX);
    tokio::time::timeout(LAUNCH_LIMIT, reader.take(limit).read_to_end(&mut answer))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Ok(answer)
}

/// A FIFO for the VMM's words: the reader's and the VMM's end. Two open files, since the VMM
/// could switch a shared one to blocking under our feet.
pub(crate) fn open_fifo(
    directory: &crate::socket::JailDirectory,
    name: &str,
) -> std::io::Result<OwnedFd> {
    use rustix::fs::{FileType, OFlags, fstat};
    // Read and write, so that neither end ever waits for or misses the other.
    let flags = OFlags::RDWR | OFlags::NONBLOCK;
    let fifo =
        banger_host::files::open_beneath(directory.fd(), std::path::Path::new(name), flags, 0)?;
    if FileType::from_raw_mode(fstat(&fifo)?.st_mode) != FileType::Fifo {
        return Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            format!("descriptor {} is no FIFO", fifo.as_raw_fd()),
        ));
    }
    Ok(fifo)
}
