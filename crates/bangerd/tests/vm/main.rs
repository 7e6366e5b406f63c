//! VMs without the API: a real store, real directories, fake machines whose guests are real.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../vm_support/mod.rs"]
mod vm_support;

mod exec;
mod faults;
mod lifecycle;
