//! The real CLI against a daemon that the test plays. Needs neither KVM nor root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod daemon;
mod images;
mod operations;
mod printed;
mod refusals;
mod run;
mod support;
mod terminal;
