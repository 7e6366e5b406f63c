//! End-to-end tests: the real CLI, the real daemon, a real VMM and a real guest.
//!
//! - [`host::Host`] is one daemon in a directory of its own; dropping it removes every VM, stops the
//!   daemon and then looks for what was left behind.
//! - [`fixture`] makes what needs the network once: a kernel and images. Each host gets a copy.
//!
//! Programs come from `BANGER_TEST_PROGRAMS` and the static agent from `BANGER_AGENT`; `cargo xtask
//! e2e` sets both.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod fixture;
pub mod host;
pub mod leaks;
pub mod registry;
pub mod run;
pub mod terminal;

/// Says why a test did not run. CI fails on a need that `tests/allowed-skips` does not list.
pub fn skip(need: &str) {
    eprintln!("skipped: {need}");
}

/// Whether the slow tests run too.
pub fn full() -> bool {
    std::env::var_os("BANGER_TEST_FULL").is_some()
}
