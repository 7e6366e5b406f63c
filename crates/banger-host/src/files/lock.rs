//! One holder at a time, told apart by an open file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// An exclusive `flock(2)`, held until it is dropped or the process ends, however it ends. The
/// file stays behind: removing it would let two holders lock two files of one name.
#[derive(Debug)]
pub struct FileLock {
    // Held for its lock only.
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is locked by {}", path.display(), holder_text(*holder))]
    Held {
        path: PathBuf,
        /// What the holder wrote, if it got that far.
        holder: Option<i32>,
    },
    #[error("cannot lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn holder_text(holder: Option<i32>) -> String {
    holder.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

impl FileLock {
    /// Takes the lock at once or says who has it; the file is made if absent and then holds the
    /// holder's process id.
    pub fn try_acquire(path: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    path: path.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        write_holder(&mut file).map_err(fail)?;
        Ok(Self { _file: file })
    }
}

fn read_holder(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        std::fs::write(&path, "12345678 left by an earlier holder\n").unwrap();
        let held = FileLock::try_acquire(&path).unwrap();
        match FileLock::try_acquire(&path) {
            Err(LockError::Held { holder, .. }) => {
                assert_eq!(holder, i32::try_from(std::process::id()).ok());
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        FileLock::try_acquire(&path).unwrap();
    }

    #[test]
    fn a_symlink_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("lock");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        let error = FileLock::try_acquire(&link).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
        assert!(!directory.path().join("elsewhere").exists());
    }
}
