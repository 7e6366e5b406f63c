//! From what was seen of a machine's end to how it ended.

use banger_host::process::ChildExit;

use crate::Exit;

/// Why QEMU said it stopped (`SHUTDOWN` event).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    GuestPowerOff,
    GuestReset,
    GuestPanic,
    /// A signal or a command from the host's side.
    Host,
}

impl Shutdown {
    /// Reads the event's `reason`.
    pub(super) fn from_reason(reason: &str) -> Self {
        match reason {
            "guest-shutdown" => Self::GuestPowerOff,
            "guest-reset" | "subsystem-reset" => Self::GuestReset,
            "guest-panic" => Self::GuestPanic,
            _ => Self::Host,
        }
    }
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// We asked for the end before it came.
    pub(super) killed: bool,
    pub(super) shutdown: Option<Shutdown>,
    /// QMP was connected to the end, so a missing event means there was none.
    pub(super) watched: bool,
    /// Known for our own children only.
    pub(super) status: Option<ChildExit>,
    /// The guest kernel's panic line, if the console ends in one.
    pub(super) panic: Option<String>,
    /// The last lines of the VMM's own log.
    pub(super) last_words: String,
}

/// A guest's own decision counts before ours: a kill that raced with a power-off lost.
pub(super) fn judge(evidence: &Evidence) -> Exit {
    let panic = || match &evidence.panic {
        Some(line) => format!("the guest's kernel died: {line}"),
        None => "the guest's kernel panicked".into(),
    };
    match evidence.shutdown {
        Some(Shutdown::GuestPowerOff) => return Exit::PowerOff,
        Some(Shutdown::GuestPanic) => return Exit::Died { reason: panic() },
        // With panic=-1 a dead kernel resets the machine like any other reboot.
        Some(Shutdown::GuestReset) if evidence.panic.is_some() => {
            return Exit::Died { reason: panic() };
        }
        Some(Shutdown::GuestReset) => return Exit::Reboot,
        Some(Shutdown::Host) | None => {}
    }
    if evidence.killed {
        return Exit::Killed;
    }
    let what = match evidence.status {
        Some(ChildExit::Signal(number)) => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => format!("QEMU was killed by {signal}"),
            Err(_) => format!("QEMU was killed by signal {number}"),
        },
        Some(ChildExit::Code(0)) if evidence.shutdown.is_some() => {
            "QEMU was told to stop by somebody else on the host".into()
        }
        Some(ChildExit::Code(code)) => format!("QEMU ended with exit status {code}"),
        None if evidence.shutdown.is_some() => {
            "QEMU was told to stop by somebody else on the host".into()
        }
        None if evidence.watched => "QEMU ended without the guest asking for it".into(),
        None => return Exit::Unknown,
    };
    Exit::Died {
        reason: with_last_words(what, &evidence.last_words),
    }
}

/// Appends the VMM's own words, on one line.
pub(super) fn with_last_words(what: String, words: &str) -> String {
    let words: Vec<&str> = words
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if words.is_empty() {
        return what;
    }
    format!("{what}: {}", words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_name() {
        let died = |reason: &str| Exit::Died {
            reason: reason.into(),
        };
        let seen = |shutdown: &str| Evidence {
            shutdown: Some(Shutdown::from_reason(shutdown)),
            watched: true,
            ..Evidence::default()
        };
        let watched = || Evidence {
            watched: true,
            ..Evidence::default()
        };
        let code = |number| Some(ChildExit::Code(number));
        let cases = [
            (seen("guest-shutdown"), Exit::PowerOff),
            (
                Evidence {
                    killed: true,
                    ..seen("guest-shutdown")
                },
                Exit::PowerOff,
            ),
            (seen("guest-reset"), Exit::Reboot),
            (
                Evidence {
                    panic: Some("Kernel panic - not syncing: x".into()),
                    ..seen("guest-reset")
                },
                died("the guest's kernel died: Kernel panic - not syncing: x"),
            ),
            (seen("guest-panic"), died("the guest's kernel panicked")),
            (
                Evidence {
                    killed: true,
                    status: code(0),
                    ..seen("host-signal")
                },
                Exit::Killed,
            ),
            (
                Evidence {
                    killed: true,
                    status: Some(ChildExit::Signal(9)),
                    ..watched()
                },
                Exit::Killed,
            ),
            (
                Evidence {
                    status: code(0),
                    ..seen("host-signal")
                },
                died("QEMU was told to stop by somebody else on the host"),
            ),
            (
                seen("host-qmp-quit"),
                died("QEMU was told to stop by somebody else on the host"),
            ),
            (
                Evidence {
                    status: Some(ChildExit::Signal(9)),
                    ..watched()
                },
                died("QEMU was killed by SIGKILL"),
            ),
            (
                Evidence {
                    status: Some(ChildExit::Signal(64)),
                    ..watched()
                },
                died("QEMU was killed by signal 64"),
            ),
            (
                Evidence {
                    status: code(1),
                    last_words: "qemu: no\n\n space \n".into(),
                    ..watched()
                },
                died("QEMU ended with exit status 1: qemu: no; space"),
            ),
            (
                Evidence {
                    status: code(0),
                    ..watched()
                },
                died("QEMU ended with exit status 0"),
            ),
            (
                watched(),
                died("QEMU ended without the guest asking for it"),
            ),
            (Evidence::default(), Exit::Unknown),
        ];
        for (evidence, expected) in cases {
            assert_eq!(judge(&evidence), expected, "{evidence:?}");
        }
    }
}
