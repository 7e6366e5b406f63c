//! Process 1 of the initramfs: what comes before the host is asked anything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_protocol::agent::PORT_NAME;
use banger_protocol::link::Identity;
use rustix::mount::{MountFlags, mount};

use crate::agent::Agent;
use crate::boot::{BootError, InitMachine, Progress, ensure_directory};
use crate::port::{self, Port};
use crate::reaper::Reaper;
use crate::{listen, local, log, modules, processors, shutdown};

/// The driver announces the port a moment after it was loaded.
const PORT_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the machine to its end. Should it return, process 1 ends, and the kernel says so on the
/// console and stops.
pub fn run() -> Result<(), BootError> {
    keep_memory();
    let mut progress = Progress::default();
    prepare(&mut progress)?;
    // Ctrl-Alt-Del is a signal to us rather than a reset.
    progress.tolerate(
        "take Ctrl-Alt-Del",
        rustix::system::reboot(rustix::system::RebootCommand::CadOff),
    );
    let port = find_port(PORT_NAME)?;
    // All devices have their drivers now.
    let coming = processors::bring_online().unwrap_or_else(|error| {
        progress.warn(format!("cannot count the processors: {error}"));
        None
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BootError::io("start", "the runtime"))?;
    runtime
        .block_on(serve(InitMachine::new(progress, coming), &port))
        .map_err(BootError::io("serve", port.display().to_string()))
}

/// Freed memory that the allocator keeps: what one stream may have under way, both ways.
const KEPT: libc::c_int = 2 << 20;

/// Keeps some of what is freed. Buffers of a frame or two come and go with every read, and given
/// back to the kernel each time, their pages are made and zeroed anew: a quarter of the link's speed.
pub fn keep_memory() {
    // SAFETY: mallopt only sets a number; no other thread exists yet that could allocate.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) };
}

/// Devices and their drivers.
pub fn prepare(progress: &mut Progress) -> Result<(), BootError> {
    progress.phase("kernel");
    mount_early()?;
    modules::load(progress);
    progress.phase("modules");
    Ok(())
}

/// /dev before all: random numbers come from there.
fn mount_early() -> Result<(), BootError> {
    for (kind, at) in [
        (c"devtmpfs", "/dev"),
        (c"proc", "/proc"),
        (c"sysfs", "/sys"),
    ] {
        ensure_directory(Path::new(at), 0o755)
            .and_then(|()| Ok(mount(kind, at, kind, MountFlags::empty(), c"")?))
            .map_err(BootError::io("mount", at))?;
    }
    Ok(())
}

/// The device of the port with this name, once it is there.
pub fn find_port(name: &str) -> Result<PathBuf, BootError> {
    let start = Instant::now();
    loop {
        let found = port::find(Path::new("/sys"), name);
        if let Ok(Some(path)) = found {
            return Ok(path);
        }
        if start.elapsed() > PORT_PATIENCE {
            let none = io::Error::from(io::ErrorKind::NotFound);
            return Err(BootError::io("find", name)(found.err().unwrap_or(none)));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn serve(machine: InitMachine, port: &Path) -> io::Result<()> {
    let identity = listen::identity()?;
    let reaper = Arc::new(Reaper::new(true));
    let (agent, downs) = Agent::new(Box::new(machine), Arc::clone(&reaper));
    tokio::spawn(reaper.run());
    shutdown::listen_to_signals(Arc::clone(&agent)).await?;
    tokio::spawn(shutdown::run(Arc::clone(&agent), downs));
    match local::bind_default() {
        Ok(listener) => {
            tokio::spawn(local::listen(Arc::clone(&agent), listener));
        }
        Err(error) => log::warn(&format!("cannot listen inside the guest: {error}")),
    }
    serve_port(&agent, port, identity).await
}

/// A fault in the code that serves the port ends its streams, not the machine; nor does a port
/// that cannot be opened again, which a guest's root may have taken.
async fn serve_port(agent: &Arc<Agent>, path: &Path, identity: Identity) -> io::Result<()> {
    let mut opened = io::Result::Ok(Port::open(path)?);
    let mut told = String::new();
    loop {
        let reason = match opened {
            Ok(port) => {
                let served = tokio::spawn(listen::listen(Arc::clone(agent), port, identity)).await;
                match served {
                    Ok(Ok(())) => String::from("it came to an end"),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        // What stays as it is would fill the console.
        if reason != told {
            log::warn(&format!("the port failed and is opened again: {reason}"));
            told = reason;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        opened = Port::open(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Machine;
    use banger_protocol::agent::{AgentError, AgentErrorKind, BootConfig, BootReport};
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    use std::os::unix::ffi::OsStrExt as _;

    struct NoMachine;

    impl Machine for NoMachine {
        fn boot(&mut self, _: &BootConfig) -> Result<BootReport, AgentError> {
            Err(AgentError::new(AgentErrorKind::BootFailed, "none"))
        }
    }

    /// A terminal stands in for the port: one whose other end is closed can be neither read nor
    /// opened again.
    #[tokio::test]
    async fn a_port_that_is_gone_does_not_end_process_1() {
        let other = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&other).unwrap();
        let name = ptsname(&other, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let (agent, _downs) = Agent::new(Box::new(NoMachine), Arc::new(Reaper::new(false)));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(other);
        });
        let serving = serve_port(&agent, path, Identity { boot_id: [0; 16] });
        let ended = tokio::time::timeout(Duration::from_millis(500), serving).await;
        assert!(ended.is_err(), "{ended:?}");
        assert!(Port::open(path).is_err());
    }
}
