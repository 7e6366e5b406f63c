//! The daemon behind its socket, with fake machines: no KVM, no QEMU, no root, no network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../vm_support/mod.rs"]
mod vm_support;

mod support;

mod daemon;
mod full_disk;
mod images;
mod operations;
mod peers;
mod requests;
mod schema;
mod vms;
