//! A base mounted by the host's kernel, read-only, for as long as the value lives.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

pub struct Mounted {
    directory: TempDir,
}

impl Mounted {
    /// `None`, with the reason on stderr, where this host lets nothing be mounted.
    pub fn new(base: &[u8]) -> Option<Mounted> {
        if !can_mount() {
            return None;
        }
        let directory = TempDir::with_prefix("base-").expect("a temporary directory");
        let image = directory.path().join("base");
        fs::write(&image, base).expect("write the base");
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("make a directory");
        run(
            "mount",
            ["-t", "erofs", "-o", "ro,loop"]
                .map(OsStr::new)
                .into_iter()
                .chain([image.as_os_str(), root.as_os_str()]),
        );
        Some(Mounted { directory })
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", [self.root().as_os_str()]);
    }
}

pub fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("skipped: root");
    false
}

fn can_mount() -> bool {
    if !is_root() {
        return false;
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("\terofs")) {
        eprintln!("skipped: erofs in the host's kernel");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: loop devices");
        return false;
    }
    true
}

/// Whether a program is there; says so if not.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    if !found {
        eprintln!("skipped: {program}");
    }
    found
}

/// Runs a program that must succeed and returns what it printed.
pub fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
