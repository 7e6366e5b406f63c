//! The end of the machine: asked for by the host, or by the guest's own tools.
//!
//! As process 1 the agent ends all processes, writes everything and stops the kernel. Beside an
//! image's init it asks that one, and does it itself only when nothing has come of it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use banger_protocol::agent::{Down, Shutdown};
use rustix::system::{RebootCommand, reboot};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::agent::Agent;
use crate::log;
use crate::reaper::Children;

/// Time that processes have after a signal of the guest's own tools.
const OWN_GRACE: Duration = Duration::from_secs(10);

/// Time for the kernel to take away killed processes.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// What the machine's end needs to know of its beginning.
struct Machine {
    upper: OwnedFd,
    end_by_reset: bool,
}

static MACHINE: OnceLock<Machine> = OnceLock::new();

/// Notes the writable disk, and how the VMM is told that the machine has ended.
pub fn remember(upper: OwnedFd, end_by_reset: bool) {
    // A machine boots once.
    let _ = MACHINE.set(Machine {
        upper,
        end_by_reset,
    });
}

/// Waits for the first request, and ends the machine.
pub async fn run(agent: Arc<Agent>, mut requests: mpsc::UnboundedReceiver<Shutdown>) {
    let Some(shutdown) = requests.recv().await else {
        return;
    };
    log::info(match shutdown.how {
        Down::PowerOff => "powering off",
        Down::Reboot => "rebooting",
    });
    if is_init() {
        end_processes(&agent, Duration::from_millis(shutdown.grace_ms)).await;
    } else {
        let grace = Duration::from_millis(shutdown.grace_ms);
        // Ends when the init kills us, or stops the kernel.
        let _ = tokio::time::timeout(grace, ask_init(&agent, shutdown.how)).await;
        log::warn("the image's init did not end the machine in time");
        signal_all(libc::SIGKILL);
    }
    // What they had to say is on its way to the host.
    sleep(Duration::from_millis(10)).await;
    end_machine(shutdown.how);
}

fn is_init() -> bool {
    std::process::id() == 1
}

/// Signals by which the guest's own `poweroff`, `halt`, `reboot` and Ctrl-Alt-Del speak to
/// process 1: busybox's and systemd's.
pub async fn listen_to_signals(agent: Arc<Agent>) -> io::Result<()> {
    let real_time = libc::SIGRTMIN();
    let meanings = [
        (libc::SIGUSR1, Down::PowerOff),
        (libc::SIGUSR2, Down::PowerOff),
        (libc::SIGTERM, Down::Reboot),
        (libc::SIGINT, Down::Reboot),
        (libc::SIGPWR, Down::PowerOff),
        (real_time + 3, Down::PowerOff),
        (real_time + 4, Down::PowerOff),
        (real_time + 5, Down::Reboot),
    ];
    for (number, how) in meanings {
        let mut signal = signal(SignalKind::from_raw(number))?;
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                // Beside an image's init they are not for us.
                if is_init() {
                    agent.go_down(Shutdown {
                        how,
                        grace_ms: OWN_GRACE.as_millis() as u64,
                    });
                }
            }
        });
    }
    Ok(())
}

/// Every process but this one: SIGTERM, and SIGKILL to those that are left.
async fn end_processes(agent: &Agent, grace: Duration) {
    if agent.reaper.reap() == Children::None {
        return;
    }
    signal_all(libc::SIGTERM);
    // Shells ignore the first, and a stopped process both.
    signal_all(libc::SIGHUP);
    signal_all(libc::SIGCONT);
    if !wait_for_all(agent, grace).await {
        signal_all(libc::SIGKILL);
        if !wait_for_all(agent, KILL_GRACE).await {
            log::warn("some processes cannot be killed");
        }
    }
}

/// Every process of the guest is a child or an orphan, so none is left when there is no child.
async fn wait_for_all(agent: &Agent, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        if agent.reaper.reap() == Children::None {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep_until(end.min(Instant::now() + Duration::from_millis(5))).await;
    }
}

fn signal_all(number: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(-1, number) };
}

/// How often systemd is told: the kernel drops what comes before systemd listens, and systemd
/// does not mind to be told what it is doing.
const REPEAT: Duration = Duration::from_millis(500);

/// Tells process 1 in its language. Never returns.
async fn ask_init(agent: &Agent, how: Down) {
    if !systemd_is_init() {
        run_tool(agent, how);
        return std::future::pending().await;
    }
    let number = match how {
        Down::PowerOff => libc::SIGRTMIN() + 4,
        Down::Reboot => libc::SIGRTMIN() + 5,
    };
    loop {
        // Its shutdown program follows it as process 1, and wants no signals.
        if systemd_is_init() {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(1, number) };
        }
        sleep(REPEAT).await;
    }
}

/// By its file: it gives itself its name only after a while.
fn systemd_is_init() -> bool {
    std::fs::read_link("/proc/1/exe").is_ok_and(|path| path.ends_with("systemd"))
}

/// Each init but systemd has a tool of its own, and they all have the same name.
fn run_tool(agent: &Agent, how: Down) {
    let tool = match how {
        Down::PowerOff => "poweroff",
        Down::Reboot => "reboot",
    };
    let started = agent.reaper.start(|| {
        let child = std::process::Command::new(tool)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(std::process::Stdio::null())
            .spawn()?;
        io::Result::Ok((child.id().cast_signed(), ()))
    });
    if let Err(error) = started {
        log::warn(&format!("cannot run the image's {tool}: {error}"));
    }
}

/// `_IOWR('X', 119, int)`
const FIFREEZE: libc::c_ulong = 0xc004_5877;

/// Writes everything and stops the kernel. Returns only if the kernel refuses.
pub fn end_machine(how: Down) {
    rustix::fs::sync();
    let machine = MACHINE.get();
    if let Some(machine) = machine {
        let none: libc::c_int = 0;
        // The journal is empty afterwards, and nothing is written behind our back. The disk is
        // sound without it, only not as tidy.
        // SAFETY: the call takes no data.
        unsafe { libc::ioctl(machine.upper.as_raw_fd(), FIFREEZE, &raw const none) };
    }
    stop_kernel(how, machine.is_some_and(|machine| machine.end_by_reset));
}

/// Stops the kernel as it is.
pub fn stop_kernel(how: Down, end_by_reset: bool) {
    let command = match how {
        Down::PowerOff if !end_by_reset => RebootCommand::PowerOff,
        Down::PowerOff | Down::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        log::warn(&format!("the kernel refuses to stop: {error}"));
    }
}
