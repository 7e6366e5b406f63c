//! What an image's init finds when it takes over: run-time units, and the agent for the end.

mod fstab;
mod units;

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::boot::{Progress, write_file};

/// Where an init is looked for, in order; the kernel's own list and systemd's two homes.
const INITS: [&str; 5] = [
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/etc/init",
    "/bin/init",
];

/// The agent's binary in the running system; systemd executes the same file at the end.
pub const BINARY: &str = "/run/banger/agent";

/// What systemd-shutdown makes its root, and executes in it.
pub const EXIT_ROOT: &str = "/run/initramfs";

/// In [`EXIT_ROOT`]: the machine is ended by a reset.
pub const END_BY_RESET: &str = "end-by-reset";

/// The image's init, as a path of the root.
pub fn find_init() -> Option<PathBuf> {
    INITS
        .iter()
        .map(Path::new)
        .find(|path| path.is_file() && access(*path, Access::EXEC_OK).is_ok())
        .map(Path::to_owned)
}

/// Whether that init, where its links lead, is systemd.
pub fn is_systemd(init: &Path) -> bool {
    std::fs::canonicalize(init)
        .unwrap_or_else(|_| init.to_owned())
        .ends_with("systemd")
}

/// Writes what the init needs. Whatever fails, it can still be executed.
pub fn prepare(init: &Path, end_by_reset: bool, progress: &mut Progress) {
    progress.tolerate("install the agent for the shutdown", install(end_by_reset));
    if is_systemd(init) {
        progress.tolerate("write units", write_units(Path::new("/")));
    }
    progress.tolerate(
        "adapt /etc/fstab",
        fstab::adapt_file(Path::new("/etc/fstab")),
    );
}

fn install(end_by_reset: bool) -> io::Result<()> {
    let exit = Path::new(EXIT_ROOT);
    std::fs::create_dir_all(exit)?;
    std::fs::create_dir_all("/run/banger")?;
    let shutdown = exit.join("shutdown");
    // Our own file was deleted with the initramfs, and is still there behind this name.
    let binary = std::fs::read("/proc/self/exe")?;
    write_file(&shutdown, &binary, 0o755)?;
    match std::fs::hard_link(&shutdown, BINARY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if end_by_reset {
        write_file(&exit.join(END_BY_RESET), b"", 0o644)?;
    }
    Ok(())
}

fn write_units(root: &Path) -> io::Result<()> {
    let units = root.join("run/systemd/system");
    for (name, text) in units::UNITS {
        write_file(&units.join(name), text.as_bytes(), 0o644)?;
    }
    for (target, name) in units::WANTED {
        let wants = units.join(format!("{target}.wants"));
        std::fs::create_dir_all(&wants)?;
        symlink(format!("../{name}"), wants.join(name))?;
    }
    for name in units::MASKED {
        symlink("/dev/null", units.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_written_and_wanted() {
        let root = tempfile::tempdir().unwrap();
        write_units(root.path()).unwrap();
        let units = root.path().join("run/systemd/system");
        let text = std::fs::read_to_string(units.join("banger-vsock-agent.service")).unwrap();
        assert!(text.contains("RemainAfterExit=yes"));
        let wanted = units.join("sysinit.target.wants/banger-vsock-agent.service");
        assert_eq!(std::fs::read_to_string(wanted).unwrap(), text);
        let masked = std::fs::read_link(units.join("serial-getty@ttyS0.service"));
        assert_eq!(masked.unwrap(), Path::new("/dev/null"));
    }
}
