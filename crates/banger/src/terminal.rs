//! The user's terminal: its size, and raw mode which never outlives the CLI.
//!
//! Raw mode ends with the guard, with a panic (before its message is printed), and with every
//! signal the CLI handles, because those end the attachment in an orderly way. Only SIGKILL leaves
//! a raw terminal behind; `stty sane` mends it.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

use banger_protocol::api::exec::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// The settings to go back to while a terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// Whether stdin and stdout are both a terminal: somebody sits there.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal on stdout, stdin or stderr.
pub fn size() -> Option<TerminalSize> {
    let of = |size: termios::Winsize| TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    };
    termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .or_else(|_| termios::tcgetwinsize(io::stderr()))
        .ok()
        .map(of)
        // A terminal whose size nobody set.
        .filter(|size| size.rows > 0 && size.columns > 0)
}

/// The size, or the one every terminal once had.
pub fn size_or_default() -> TerminalSize {
    size().unwrap_or(TerminalSize {
        rows: 24,
        columns: 80,
    })
}

/// stdin's terminal in raw mode until this is dropped.
pub struct RawMode(());

impl RawMode {
    /// Makes stdin's terminal raw; `None` where stdin is no terminal.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn enter() -> io::Result<Option<RawMode>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
            }));
        });
        let current = termios::tcgetattr(io::stdin())?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(current.clone());
        set_raw(&current)?;
        Ok(Some(RawMode(())))
    }

    /// Raw once more, after a shell had the terminal while we were stopped.
    pub fn again(&self) {
        let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(saved) = saved {
            // A terminal that went away is noticed by reading from it.
            let _ = set_raw(&saved);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn set_raw(from: &Termios) -> io::Result<()> {
    let mut raw = from.clone();
    raw.make_raw();
    Ok(termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        // Drain: what the command printed last is shown as it was meant.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &saved);
    }
}
