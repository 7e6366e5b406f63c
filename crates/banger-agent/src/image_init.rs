//! Two processes of one: the image's init becomes process 1, the agent goes on beside it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Returns in the child, which is the agent from here on. The parent, process 1, executes the
/// init; if it cannot, the child is told why.
///
/// The runtime has one thread, so the child is a whole copy of it; the descriptors they share are
/// closed in the parent by its exec.
pub fn hand_over(init: &Path) -> Result<(), String> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (read, write) = pipe().map_err(|error| error.to_string())?;
    // SAFETY: this process has one thread, which goes on in both.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().to_string()),
        0 => {
            drop(write);
            become_service();
            let mut reason = String::new();
            // At its end without a word the exec has succeeded.
            let _ = std::fs::File::from(read).read_to_string(&mut reason);
            if reason.is_empty() {
                Ok(())
            } else {
                Err(reason)
            }
        }
        _ => {
            drop(read);
            let error = execute(init);
            let _ = std::fs::File::from(write).write_all(error.to_string().as_bytes());
            wait_for_ever()
        }
    }
}

fn execute(init: &Path) -> io::Error {
    Command::new(init)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/")
        .env("TERM", "linux")
        .exec()
}

/// Process 1 must not end; the agent, its child, still tells the host what happened.
fn wait_for_ever() -> ! {
    loop {
        // SAFETY: no memory is involved.
        let reaped = unsafe { libc::wait(std::ptr::null_mut()) };
        if reaped < 0 {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }
}

/// A session of its own, last in the kernel's list when memory is short, and a name by which
/// systemd's last round of signals leaves it alone: a storage daemon's begins with `@`.
fn become_service() {
    crate::set_serving();
    if let Err(error) = rustix::process::setsid() {
        crate::log::warn(&format!("cannot begin a session: {error}"));
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        crate::log::warn(&format!("cannot adjust the OOM score: {error}"));
    }
    if let Err(error) = mark_name() {
        crate::log::warn(&format!("cannot mark the process's name: {error}"));
    }
    raise_limits();
}

/// Each stream and each process of exec takes descriptors.
pub fn raise_limits() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let files = Rlimit {
        current: Some(524_288),
        maximum: Some(524_288),
    };
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        crate::log::warn(&format!("cannot raise the limit of open files: {error}"));
    }
}

/// Writes `@` over the first byte of the command line that the kernel shows.
fn mark_name() -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let address = arg_start(&stat).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the address is that of this process's first argument, which the kernel put on our
    // stack, which is writable and never moves. Nobody reads arguments any more.
    unsafe { std::ptr::write_volatile(std::ptr::with_exposed_provenance_mut::<u8>(address), b'@') };
    // SAFETY: the call reads a string that outlives it.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"banger-agent".as_ptr()) };
    Ok(())
}

/// Field 48 of /proc/PID/stat. The second may hold anything, but ends with the last parenthesis.
fn arg_start(stat: &str) -> Option<usize> {
    let (_, rest) = stat.rsplit_once(')')?;
    let address = rest.split_ascii_whitespace().nth(45)?.parse().ok()?;
    (address != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_found_behind_any_name() {
        let mut stat = "7 (a) b (c) S".to_owned();
        for field in 4..=52 {
            stat.push_str(&format!(" {field}"));
        }
        assert_eq!(arg_start(&stat), Some(48));
        assert_eq!(arg_start("7 (x) S 1"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(arg_start(&own).is_some());
    }
}
