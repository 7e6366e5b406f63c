//! From the initramfs into the overlay.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::{
    MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_move, move_mount, open_tree, unmount,
};

use super::BootError;
use super::files::ensure_directory;
use super::overlay::ROOT;

/// What the initramfs has mounted for itself.
const OWN_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What is in the initramfs and needed no more: its memory is the guest's.
const SPENT: [&str; 2] = ["/init", "/modules.order"];

/// The kernel's modules of the initramfs, to be placed in the new root.
pub fn take_modules() -> Option<OwnedFd> {
    let version = rustix::system::uname().release().to_owned();
    let path = std::path::Path::new("/lib/modules").join(version.to_str().ok()?);
    path.is_dir().then(|| open_tree_clone(&path).ok()).flatten()
}

/// A detached mount of a directory, which `move_mount` places anywhere.
pub fn open_tree_clone(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Mounts it at a path, as the root is now.
pub fn place_tree(tree: &OwnedFd, at: impl rustix::path::Arg) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, c"", CWD, at, flags)?)
}

/// Makes the overlay the root of the mount tree and of this process.
pub fn switch() -> Result<(), BootError> {
    for own in OWN_MOUNTS {
        // Mounted anew in the new root; one that is not there is not missed.
        let _ = unmount(own, UnmountFlags::DETACH);
    }
    for spent in SPENT {
        let _ = std::fs::remove_file(spent);
    }
    let switch = || -> io::Result<()> {
        std::env::set_current_dir(ROOT)?;
        mount_move(c".", c"/")?;
        rustix::process::chroot(c".")?;
        std::env::set_current_dir("/")
    };
    switch().map_err(BootError::io("switch to", "the new root"))
}

/// So that the guest's own modprobe finds the modules of the kernel it runs on.
pub fn place_modules(modules: &OwnedFd) -> io::Result<()> {
    let version = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let path = std::path::Path::new("/lib/modules").join(version);
    ensure_directory(&path, 0o755)?;
    place_tree(modules, path)
}
