//! The program between the daemon and the VMM.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_host::cgroup::{Cgroup, Limits};
use banger_host::files::{open_beneath, write_atomic};
use banger_host::process::Identity;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};

use super::{LaunchFailure, LaunchSpec, MESSAGE_LIMIT, NOTE, privileges};
use crate::jail_path;

/// Reads a [`LaunchSpec`] from standard input and becomes the VMM. On failure the reason goes to
/// standard output, as JSON, and the process exits with status 1.
///
/// Call it from `main` before anything else: it needs a process with one thread.
pub fn launcher_main() -> ! {
    // An error must not travel through descriptor 1 once that is the log, so it moves away first.
    let error_pipe = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3);
    let failure = match error_pipe {
        Ok(pipe) => {
            let Err(message) = become_vmm(&pipe);
            if let Ok(text) = serde_json::to_vec(&LaunchFailure { message }) {
                let _ = File::from(pipe).write_all(&text);
            }
            1
        }
        Err(_) => 2,
    };
    std::process::exit(failure);
}

/// Names the deed that failed.
trait Deed<T> {
    fn deed(self, deed: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Deed<T> for Result<T, E> {
    fn deed(self, deed: &str) -> Result<T, String> {
        self.map_err(|error| format!("cannot {deed}: {error}"))
    }
}

fn become_vmm(error_pipe: &OwnedFd) -> Result<Infallible, String> {
    let spec = read_spec()?;
    privileges::close_all_but(error_pipe).deed("close inherited files")?;
    rustix::process::setsid().deed("start a session")?;
    rustix::thread::set_no_new_privs(true).deed("set no_new_privs")?;
    if let Some(name) = &spec.jail.cgroup {
        join_cgroup(name);
    }
    rustix::process::chdir(&spec.directory).deed(&format!("enter {}", spec.directory.display()))?;
    let directory = rustix::fs::openat(
        rustix::fs::CWD,
        ".",
        OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .deed("open the jail directory")?;
    if let Some(uid) = spec.jail.uid {
        hand_over(&directory, &spec.owned_files, uid)?;
    }
    let identity = Identity::current().deed("read my own start time")?;
    let record = serde_json::to_vec(&identity).deed("write the process record")?;
    write_atomic(Path::new(jail_path::PROCESS), &record, 0o600).deed("write the process record")?;
    drop(directory);

    rustix::process::umask(Mode::from_raw_mode(0o077));
    privileges::limit_resources(spec.jail.max_file_size).deed("set resource limits")?;
    let null = File::open("/dev/null").deed("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).deed("redirect stdin")?;
    drop(null);
    rustix::stdio::dup2_stdout(std::io::stderr()).deed("redirect stdout")?;
    privileges::reset_signals().deed("reset signals")?;
    privileges::drop_all(spec.jail.uid, spec.jail.kvm_gid)?;

    let program = c_string(spec.program.as_os_str())?;
    let mut argv = vec![program.clone()];
    for arg in &spec.args {
        argv.push(c_string(OsStr::new(arg))?);
    }
    let environment = [
        c"PATH=/usr/local/bin:/usr/bin:/bin",
        c"LC_ALL=C.UTF-8",
        c"HOME=/",
    ];
    nix::unistd::execve(&program, &argv, &environment)
        .deed(&format!("execute {}", spec.program.display()))
}

fn read_spec() -> Result<LaunchSpec, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MESSAGE_LIMIT as u64 + 1)
        .read_to_end(&mut bytes)
        .deed("read the launch spec")?;
    serde_json::from_slice(&bytes).deed("understand the launch spec")
}

/// A cgroup is a comfort: without one the VMM runs all the same, and its log says why.
fn join_cgroup(name: &str) {
    let limits = Limits::default();
    let notes = match Cgroup::create(name, &limits) {
        Ok((Some(cgroup), mut notes)) => {
            if let Err(error) = cgroup.add(0) {
                notes.push(error.to_string());
            }
            notes
        }
        Ok((None, notes)) => notes,
        Err(error) => vec![error.to_string()],
    };
    for note in notes {
        eprintln!("{NOTE}{note}");
    }
}

/// Gives the VM's user what it writes: a place for sockets in the directory, and its disks.
fn hand_over(directory: &OwnedFd, files: &[String], uid: u32) -> Result<(), String> {
    let gid = Gid::from_raw(uid);
    // Sticky: the VMM may add names and not take ours away, which it could as the owner.
    fchown(directory, Some(rustix::process::geteuid()), Some(gid))
        .deed("give the jail directory to the VM's group")?;
    fchmod(directory, Mode::from_raw_mode(0o1770)).deed("open the jail directory to the VM")?;
    for name in files {
        let deed = format!("give {name} to the VM's user");
        let file = open_beneath(
            directory,
            Path::new(name),
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK,
            0,
        )
        .deed(&deed)?;
        let status = fstat(&file).deed(&deed)?;
        // Given already, by whoever keeps the file under a second name outside the jail.
        if status.st_uid == uid {
            continue;
        }
        // A second name would hand over somebody else's file as well.
        if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::RegularFile
            || status.st_nlink != 1
        {
            return Err(format!("cannot {deed}: not a file of one name"));
        }
        fchown(&file, Some(Uid::from_raw(uid)), Some(gid)).deed(&deed)?;
        fchmod(&file, Mode::RUSR | Mode::WUSR).deed(&deed)?;
    }
    Ok(())
}

fn c_string(text: &OsStr) -> Result<CString, String> {
    CString::new(text.as_bytes()).deed("pass an argument with a NUL byte")
}
