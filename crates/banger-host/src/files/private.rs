//! Directories nobody else can look into.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod, fstat};
use rustix::process::geteuid;

use super::beneath::open_directory;

#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    #[error("{} is a symbolic link or no directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{} belongs to user {owner}, not to user {expected}", path.display())]
    ForeignOwner {
        path: PathBuf,
        owner: u32,
        expected: u32,
    },
    #[error("cannot make the directory {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes `path` a directory of mode 0700 that belongs to this process's user, and opens it.
///
/// An existing directory of ours that is open to others is closed (its mode becomes 0700); one
/// that is a symbolic link or belongs to somebody else is refused. The parent must exist.
pub fn private_directory(path: &Path) -> Result<OwnedFd, PrivateDirError> {
    let fail = |source| PrivateDirError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    let directory = open_directory(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => PrivateDirError::NotADirectory(path.to_owned()),
        _ => fail(error),
    })?;
    let found = fstat(&directory).map_err(|errno| fail(errno.into()))?;
    let expected = geteuid().as_raw();
    if found.st_uid != expected {
        return Err(PrivateDirError::ForeignOwner {
            path: path.to_owned(),
            owner: found.st_uid,
            expected,
        });
    }
    if found.st_mode & 0o7777 != 0o700 {
        fchmod(&directory, Mode::RWXU).map_err(|errno| fail(errno.into()))?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_and_tightens() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("private");
        for loose in [0o755, 0o500, 0o1777] {
            private_directory(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(loose)).unwrap();
        }
    }

    #[test]
    fn refuses_links_files_and_missing_parents() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        for path in [file, link] {
            let error = private_directory(&path).unwrap_err();
            assert!(
                matches!(error, PrivateDirError::NotADirectory(_)),
                "{error}"
            );
        }
        let error = private_directory(&parent.path().join("a/b")).unwrap_err();
        assert!(matches!(error, PrivateDirError::Io { .. }), "{error}");
    }

    #[test]
    fn refuses_another_owner() {
        if !geteuid().is_root() {
            eprintln!("skipped: root");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("theirs");
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let error = private_directory(&path).unwrap_err();
        assert!(
            matches!(error, PrivateDirError::ForeignOwner { owner: 65534, .. }),
            "{error}"
        );
    }
}
