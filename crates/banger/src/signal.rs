//! Signals, as long as whoever started us did not have us ignore them.
//!
//! `nohup banger …` ignores SIGHUP, a script's `banger … &` SIGINT and SIGQUIT: a handler of our own
//! would undo that, and end in the VM what was to go on.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// One signal that is listened for.
pub struct Signal(Option<unix::Signal>);

/// Listens from here on, unless it is ignored.
///
/// # Errors
/// What the system says.
pub fn listen(kind: SignalKind) -> io::Result<Signal> {
    if is_ignored(kind)? {
        return Ok(Signal(None));
    }
    unix::signal(kind).map(Some).map(Signal)
}

impl Signal {
    /// The next one; never where it is ignored. Cancel safe.
    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

fn is_ignored(kind: SignalKind) -> io::Result<bool> {
    // SAFETY: the call only writes to the structure, for which all zeros are valid.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(kind.as_raw_value(), std::ptr::null(), &raw mut current) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(current.sa_sigaction == libc::SIG_IGN)
    }
}
