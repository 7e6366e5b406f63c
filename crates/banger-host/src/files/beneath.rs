//! Opens paths that stay under a directory, whoever else may write there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Opens `path` relative to `directory`, refusing `..` out of it, symbolic links anywhere in the
/// path, magic links and absolute paths.
pub fn open_beneath(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: u32,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(
            &directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
            resolve,
        ) {
            // The kernel asks for another try when a rename raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a directory whose last component is not a symbolic link.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        CWD,
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_beneath() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/file"), "in").unwrap();
        std::fs::write(outside.path().join("secret"), "out").unwrap();
        std::os::unix::fs::symlink("sub", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("abs")).unwrap();

        let directory = open_directory(&root).unwrap();
        let cases = [
            ("sub/file", true),
            ("./sub/../sub/file", true),
            ("link/file", false),
            ("abs", false),
            ("../secret", false),
            ("sub/../../secret", false),
            ("/etc/passwd", false),
            ("missing", false),
        ];
        for (path, works) in cases {
            let result = open_beneath(&directory, Path::new(path), OFlags::RDONLY, 0);
            assert_eq!(result.is_ok(), works, "{path}: {result:?}");
        }
        assert!(open_directory(&root.join("link")).is_err());
        assert!(open_directory(&root.join("sub/file")).is_err());
    }
}
