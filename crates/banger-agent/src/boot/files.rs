//! Files and directories of an image, which may be anything already.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Longest file of an image that is read whole.
const MAX_READ: u64 = 1024 * 1024;

/// A directory is there afterwards, whatever was in its place: an image may have a file, or a
/// symlink to nowhere, where a directory must be.
pub fn ensure_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent()
        && !parent.is_dir()
    {
        ensure_directory(parent, 0o755)?;
    }
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path)?;
    }
    DirBuilder::new().mode(mode).create(path)?;
    // The process's umask is nobody's business.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Replaces a file, or whatever is in its place, at once.
pub fn write_file(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        ensure_directory(parent, 0o755)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".banger-new");
    let new = path.with_file_name(name);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
    {
        std::fs::remove_dir(path)?;
    }
    std::fs::rename(&new, path)
}

/// The text of a regular file of bounded length; `None` where there is none such.
pub fn read_file(path: &Path) -> Option<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_READ {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_READ).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Writes a file unless it says so already, which spares the writable disk.
pub fn update_file(path: &Path, text: &[u8]) -> io::Result<()> {
    if path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file())
        && read_file(path).is_some_and(|found| found == text)
    {
        return Ok(());
    }
    write_file(path, text, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn whatever_is_in_the_way_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("victim"), "kept").unwrap();
        symlink(path("victim"), path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        std::fs::create_dir(path("empty")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RWXU).unwrap();
        for name in ["new", "link", "dangling", "empty", "fifo", "deep/er/file"] {
            write_file(&path(name), b"text", 0o640).unwrap();
            let metadata = path(name).symlink_metadata().unwrap();
            assert!(metadata.is_file(), "{name}");
            assert_eq!(metadata.mode() & 0o7777, 0o640);
            assert_eq!(read_file(&path(name)).unwrap(), b"text");
        }
        assert_eq!(std::fs::read(path("victim")).unwrap(), b"kept");
    }

    #[test]
    fn directories_are_made_of_anything() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        std::fs::create_dir(path("real")).unwrap();
        symlink("real", path("link")).unwrap();
        for name in ["a/b/c", "file/d", "dangling", "link"] {
            ensure_directory(&path(name), 0o700).unwrap();
            assert!(path(name).is_dir(), "{name}");
        }
        assert!(path("link").symlink_metadata().unwrap().is_symlink());
    }
}
