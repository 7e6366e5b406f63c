//! Signals while we are joined to a process.

use std::io;

use tokio::signal::unix::SignalKind;

use crate::signal::{Signal, listen};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Pass it on. A second one of those that mean an end is not passed on: see `session`.
    Forward(i32),
    /// Our terminal is gone.
    HangUp(i32),
    /// The terminal has another size.
    Resized,
    /// We go on after a stop, and a shell may have changed the terminal.
    Continued,
}

impl Event {
    /// The signal, of those that ask for an end.
    pub fn ending(self) -> Option<i32> {
        match self {
            Event::Forward(signal @ (libc::SIGINT | libc::SIGTERM)) | Event::HangUp(signal) => {
                Some(signal)
            }
            Event::Forward(_) | Event::Resized | Event::Continued => None,
        }
    }
}

/// The signals we handle.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hang_up: Signal,
    user1: Signal,
    user2: Signal,
    /// Only with a terminal.
    window: Option<(Signal, Signal)>,
}

impl Signals {
    pub fn new(terminal: bool) -> io::Result<Self> {
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            quit: listen(SignalKind::quit())?,
            hang_up: listen(SignalKind::hangup())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
            window: terminal
                .then(|| {
                    io::Result::Ok((
                        listen(SignalKind::window_change())?,
                        listen(SignalKind::from_raw(libc::SIGCONT))?,
                    ))
                })
                .transpose()?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Event {
        let (resized, continued) = match &mut self.window {
            Some((resized, continued)) => (Some(resized), Some(continued)),
            None => (None, None),
        };
        tokio::select! {
            () = self.interrupt.recv() => Event::Forward(libc::SIGINT),
            () = self.terminate.recv() => Event::Forward(libc::SIGTERM),
            () = self.quit.recv() => Event::Forward(libc::SIGQUIT),
            () = self.user1.recv() => Event::Forward(libc::SIGUSR1),
            () = self.user2.recv() => Event::Forward(libc::SIGUSR2),
            () = self.hang_up.recv() => Event::HangUp(libc::SIGHUP),
            () = received(resized) => Event::Resized,
            () = received(continued) => Event::Continued,
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
