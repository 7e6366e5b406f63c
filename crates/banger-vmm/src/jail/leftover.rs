//! Ends what a crashed daemon left running in a jail directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_host::cgroup::{Cgroup, CgroupError};
use banger_host::files::{open_beneath, open_directory};
use banger_host::process::{Handle, Identity};
use rustix::fs::OFlags;

use super::KILL_LIMIT;
use crate::{VmmError, jail_path};

/// What a jail directory says about its VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// No launcher got as far as to leave a record.
    NeverStarted,
    Ended,
    Running(Identity),
}

/// Reads the launcher's record. One that is not a plain file of our own user was written by a
/// VMM under attack, and is not believed.
pub fn leftover(directory: &Path) -> io::Result<Leftover> {
    let Some(identity) = read_record(directory)? else {
        return Ok(Leftover::NeverStarted);
    };
    Ok(if identity.is_alive()? {
        Leftover::Running(identity)
    } else {
        Leftover::Ended
    })
}

/// Kills what still runs in the directory and in the cgroup, and removes the cgroup. Idempotent;
/// files stay.
pub async fn end_leftover(directory: &Path, cgroup: Option<&str>) -> Result<(), VmmError> {
    let io = |deed| {
        move |source| VmmError::Io {
            deed,
            path: directory.to_owned(),
            source,
        }
    };
    if let Leftover::Running(identity) =
        leftover(directory).map_err(io("read the process record in"))?
        && let Some(handle) = Handle::open(identity).map_err(io("open the VMM process of"))?
    {
        handle
            .signal(rustix::process::Signal::KILL)
            .map_err(io("kill the VMM process of"))?;
        match tokio::time::timeout(KILL_LIMIT, handle.ended()).await {
            Ok(ended) => ended.map_err(io("wait for the VMM process of"))?,
            Err(_) => {
                return Err(VmmError::Timeout {
                    what: "killing the VMM",
                    after: KILL_LIMIT,
                });
            }
        }
        // Ours when the same daemon launched it.
        let _ = handle.reap();
    }
    let Some(name) = cgroup.map(str::to_owned) else {
        return Ok(());
    };
    match tokio::task::spawn_blocking(move || remove_cgroup(&name)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(io("end the cgroup of")(io::Error::other(error))),
        Err(error) => Err(io("end the cgroup of")(io::Error::other(error))),
    }
}

pub(super) fn remove_cgroup(name: &str) -> Result<(), CgroupError> {
    let Some(cgroup) = Cgroup::open(name)? else {
        return Ok(());
    };
    cgroup.kill(KILL_LIMIT)?;
    cgroup.remove()
}

fn read_record(directory: &Path) -> io::Result<Option<Identity>> {
    let directory = match open_directory(directory) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = match open_beneath(&directory, Path::new(jail_path::PROCESS), flags, 0) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the process record is not ours",
        ));
    }
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_compared_and_only_believed_when_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(
            leftover(&path.join("none")).unwrap(),
            Leftover::NeverStarted
        );
        assert_eq!(leftover(path).unwrap(), Leftover::NeverStarted);
        let me = Identity::current().unwrap();
        let record = path.join(jail_path::PROCESS);
        std::fs::write(&record, serde_json::to_vec(&me).unwrap()).unwrap();
        assert_eq!(leftover(path).unwrap(), Leftover::Running(me));
        let older = Identity {
            start_time: 1,
            ..me
        };
        std::fs::write(&record, serde_json::to_vec(&older).unwrap()).unwrap();
        assert_eq!(leftover(path).unwrap(), Leftover::Ended);
        std::fs::write(&record, "{").unwrap();
        leftover(path).unwrap_err();
        std::fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &record).unwrap();
        leftover(path).unwrap_err();
        if rustix::process::geteuid().is_root() {
            std::fs::remove_file(&record).unwrap();
            std::fs::write(&record, serde_json::to_vec(&me).unwrap()).unwrap();
            std::os::unix::fs::chown(&record, Some(65534), None).unwrap();
            leftover(path).unwrap_err();
        } else {
            eprintln!("skipped: root");
        }
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
    async fn a_leftover_is_ended_once_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let child = std::process::Command::new("sleep")
            .arg("300")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = Identity::of(pid).unwrap().unwrap();
        let record = directory.path().join(jail_path::PROCESS);
        std::fs::write(&record, serde_json::to_vec(&identity).unwrap()).unwrap();
        for _ in 0..2 {
            end_leftover(directory.path(), Some("banger-test-none/x"))
                .await
                .unwrap();
            assert!(!identity.is_alive().unwrap());
        }
    }
}
