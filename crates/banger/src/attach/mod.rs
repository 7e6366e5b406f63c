//! The client's end of exec: our stdin, stdout, stderr, terminal and signals joined to a process in
//! a VM.
//!
//! ```text
//! stdin ── thread ─► Session ◄─► connection (frames)
//! stdout ◄─ thread ──┤   ▲
//! stderr ◄─ thread ──┘   └── signals
//! ```
//!
//! One task owns the connection and never blocks: a slow reader of stderr holds up neither stdout
//! nor a signal. What waits in memory is bounded by the credit of each channel. Ctrl-C goes to the
//! process; a second one ends us, and a hang-up ends the process.

mod input;
mod output;
mod plan;
mod session;
mod signals;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use banger_protocol::exec::ExitStatus;

use crate::client::Upgraded;
use crate::failure::Failure;
use crate::terminal::RawMode;
use signals::{Event, Signals};

pub use plan::Plan;

/// How long a client that was told to end waits for a process that is being started.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Our side of the process's standard streams.
pub struct Ends {
    /// `None` where the process was asked for without stdin.
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

impl Ends {
    fn of_this_process(with_stdin: bool) -> io::Result<Ends> {
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        Ok(Ends {
            stdin: with_stdin
                // A closed stdin has nothing to send.
                .then(|| own(io::stdin().as_fd()).or_else(|_| File::open("/dev/null")))
                .transpose()?,
            stdout: own(io::stdout().as_fd())?,
            stderr: own(io::stderr().as_fd())?,
        })
    }
}

/// Joins this process to the one behind a connection that is being upgraded, until that ends.
///
/// # Errors
/// [`Failure::BrokenPipe`] where nobody reads our stdout any more, [`Failure::Interrupted`] where
/// a signal ended us, and what the connection says. In all of them the process is hung up on.
pub async fn attach(
    connecting: impl Future<Output = Result<Upgraded, Failure>>,
    plan: Plan,
) -> Result<ExitStatus, Failure> {
    let mut signals =
        Signals::new(plan.terminal).map_err(|error| cannot("listen for signals", &error))?;
    let (upgraded, early) = connect(connecting, &mut signals).await?;
    let ends = Ends::of_this_process(plan.stdin)
        .map_err(|error| cannot("use the standard streams", &error))?;
    let raw = if plan.terminal {
        RawMode::enter().map_err(|error| cannot("set up the terminal", &error))?
    } else {
        None
    };
    session::run(upgraded, ends, plan.terminal, signals, early, raw.as_ref()).await
}

/// The process may have started before we hear that it has, and what is meant for it must not be
/// lost then: a signal that asks for an end is kept until it can be passed on.
async fn connect(
    connecting: impl Future<Output = Result<Upgraded, Failure>>,
    signals: &mut Signals,
) -> Result<(Upgraded, Option<Event>), Failure> {
    let mut connecting = pin!(connecting);
    let interrupting = loop {
        tokio::select! {
            upgraded = &mut connecting => return Ok((upgraded?, None)),
            event = signals.next() => if let Some(signal) = event.ending() {
                break (event, signal);
            }
        }
    };
    let (event, signal) = interrupting;
    let upgraded = tokio::select! {
        upgraded = connecting => upgraded?,
        again = async { while signals.next().await.ending().is_none() {} } => {
            let () = again;
            return Err(Failure::Interrupted(signal));
        }
        () = tokio::time::sleep(CONNECT_TIMEOUT) => return Err(Failure::Interrupted(signal)),
    };
    Ok((upgraded, Some(event)))
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::new(
        banger_protocol::error::ErrorKind::Internal,
        format!("cannot {what}: {error}"),
    )
}
