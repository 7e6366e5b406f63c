//! Removes a directory tree that somebody hostile may still be writing to.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, chmod, openat2, renameat_with,
    unlinkat,
};
use rustix::io::Errno;

/// Removes `name` (one component) from `parent`, and everything under it if it is a directory.
/// Absence is success. Symbolic links are removed, never followed; a mount point below is an
/// error and stays.
pub fn remove_tree(parent: impl AsFd, name: &Path) -> io::Result<()> {
    let parent = parent.as_fd();
    let single = name.components().count() == 1
        && matches!(
            name.components().next(),
            Some(std::path::Component::Normal(_))
        );
    if !single {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a single path component",
        ));
    }
    let name = CString::new(name.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match unlinkat(parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    remove_contents(&open_child(parent, &name)?)?;
    match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Empties a directory.
///
/// A tree of any depth takes constant stack and three descriptors: a directory found inside a
/// child is first renamed up into the root, so that the root's children never need a second
/// level at once.
pub fn remove_contents(root: impl AsFd) -> io::Result<()> {
    let root = root.as_fd();
    let mut lifted = 0;
    loop {
        let children = names(root)?;
        if children.is_empty() {
            return Ok(());
        }
        for (name, kind) in children {
            if kind != FileType::Directory && unlink(root, &name)? == Unlinked::Done {
                continue;
            }
            let child = open_child(root, &name)?;
            for (inner, kind) in names(child.as_fd())? {
                if kind != FileType::Directory && unlink(child.as_fd(), &inner)? == Unlinked::Done {
                    continue;
                }
                lift(child.as_fd(), &inner, root, &mut lifted)?;
            }
            match unlinkat(root, &name, AtFlags::REMOVEDIR) {
                // Somebody added a file in between: the next round meets it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Unlinked {
    Done,
    IsDirectory,
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Unlinked> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Unlinked::Done),
        Err(Errno::ISDIR) => Ok(Unlinked::IsDirectory),
        Err(errno) => Err(errno.into()),
    }
}

fn lift(
    from: BorrowedFd<'_>,
    name: &CStr,
    root: BorrowedFd<'_>,
    counter: &mut u64,
) -> io::Result<()> {
    // An empty directory needs no rename.
    match unlinkat(from, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Renaming a directory rewrites its "..", which needs write permission on it.
    drop(open_child(from, name)?);
    loop {
        *counter += 1;
        let target = format!(".removing.{counter}");
        match renameat_with(from, name, root, target.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a child directory, never through a link or onto another file system; one of ours whose
/// permission bits keep us out gets them back.
fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let open = |flags: OFlags| {
        openat2(
            parent,
            name,
            flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_XDEV,
        )
    };
    let handle = open(OFlags::PATH)?;
    let mode = rustix::fs::fstat(&handle)?.st_mode;
    if mode & 0o700 != 0o700 {
        // Through /proc, because fchmod refuses an O_PATH descriptor.
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        match chmod(path.as_str(), Mode::RWXU) {
            // Not ours, but root may not need the bits.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(open(OFlags::RDONLY)?)
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::open_directory;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn removes_everything_and_follows_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        let tree = parent.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c/d")).unwrap();
        std::fs::create_dir_all(tree.join(".removing.1/x/y")).unwrap();
        std::fs::write(tree.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        let closed = tree.join("a/closed");
        std::fs::create_dir_all(closed.join("in/side")).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();

        let handle = open_directory(parent.path()).unwrap();
        remove_tree(&handle, Path::new("tree")).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        // Absence is success.
        remove_tree(&handle, Path::new("tree")).unwrap();
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let parent = tempfile::tempdir().unwrap();
        let handle = open_directory(parent.path()).unwrap();
        rustix::fs::mkdirat(&handle, "deep", Mode::RWXU).unwrap();
        let mut current = open_directory(&parent.path().join("deep")).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, "d", Mode::RWXU).unwrap();
            current = rustix::fs::openat(
                &current,
                "d",
                OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .unwrap();
        }
        drop(current);
        remove_tree(&handle, Path::new("deep")).unwrap();
        assert!(!parent.path().join("deep").exists());
    }

    #[test]
    fn only_single_names_of_files_links_or_directories() {
        let parent = tempfile::tempdir().unwrap();
        let handle = open_directory(parent.path()).unwrap();
        for name in ["..", ".", "a/b", "/etc", ""] {
            assert!(remove_tree(&handle, Path::new(name)).is_err(), "{name:?}");
        }
        std::fs::write(parent.path().join("file"), "").unwrap();
        remove_tree(&handle, Path::new("file")).unwrap();
        std::os::unix::fs::symlink("/etc", parent.path().join("link")).unwrap();
        remove_tree(&handle, Path::new("link")).unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
