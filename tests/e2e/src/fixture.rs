//! What all tests share and only one of them makes: a daemon's state with a kernel and images.
//!
//! - `debian-12`: the catalog's image, as a user gets it.
//! - `busybox`: a static busybox with its applets, and nothing else.
//! - `scratch`: one static program at `/busybox`; no directory, no `/etc`, no shell.
//!
//! It lives in the target directory and is made again when it is incomplete.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::host::{Host, programs};
use crate::run::Run;

pub const KERNEL: &str = "debian-6.1-cloud";
const COMPLETE: &str = "complete-1";

/// Puts a copy of the fixture's state into a daemon's directory. What nobody changes is linked where
/// the files' owner may stay the same.
pub fn copy_into(root: &Path, linked: bool) {
    let fixture = ensure();
    copy(&fixture.join("state"), &root.join("state"), linked);
}

fn directory() -> PathBuf {
    // …/target/debug -> …/target
    programs().parent().unwrap().join("e2e-fixture")
}

fn ensure() -> PathBuf {
    let directory = directory();
    fs::create_dir_all(&directory).unwrap();
    let lock = File::create(directory.join("lock")).unwrap();
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .unwrap();
    if !directory.join(COMPLETE).exists() {
        let _ = fs::remove_dir_all(directory.join("state"));
        make(&directory);
        File::create(directory.join(COMPLETE)).unwrap();
    }
    directory
}

fn make(directory: &Path) {
    let host = Host::empty();
    host.banger(&["kernel", "pull", KERNEL]).ok();
    host.banger(&["image", "pull", "debian-12"]).ok();
    let trees = tempfile::tempdir().unwrap();
    for (name, tree) in [
        ("busybox", busybox(trees.path())),
        ("scratch", scratch(trees.path())),
    ] {
        let source = format!("rootfs:{}", tree.display());
        host.banger(&["image", "pull", &source, "--name", name])
            .ok();
    }
    host.banger(&["daemon", "stop"]).ok();
    copy(&host.state(), &directory.join("state"), true);
}

/// The host's static busybox.
fn program() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("busybox-static is installed")
}

pub fn busybox(parent: &Path) -> PathBuf {
    let tree = parent.join("busybox");
    for directory in ["bin", "etc", "root", "tmp"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(program(), tree.join("bin/busybox")).unwrap();
    let applets = Run::of(std::process::Command::new(program()).arg("--list"), b"").ok();
    for applet in applets.text().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        tree.join("etc/group"),
        "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
    )
    .unwrap();
    tree
}

fn scratch(parent: &Path) -> PathBuf {
    let tree = parent.join("scratch");
    fs::create_dir_all(&tree).unwrap();
    fs::copy(program(), tree.join("busybox")).unwrap();
    tree
}

/// Copies a tree; with `linked` files that nobody changes are hard links.
fn copy(from: &Path, to: &Path, linked: bool) {
    fs::create_dir_all(to).unwrap();
    let permissions = fs::metadata(from).unwrap().permissions();
    fs::set_permissions(to, permissions).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target, linked);
        } else if kind.is_file() {
            let immutable = entry.metadata().unwrap().mode() & 0o222 == 0;
            if !(linked && immutable && fs::hard_link(entry.path(), &target).is_ok()) {
                fs::copy(entry.path(), &target).unwrap();
            }
        }
    }
}
