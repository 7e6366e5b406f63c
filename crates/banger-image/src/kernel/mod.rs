//! Kernels a VM can boot: where they come from, how they are checked, where they are kept.
//!
//! ```text
//!   catalog entry ── apt ── .deb ──┐
//!                                  ├─ unpack ─ vmlinux + modules ─ select ─ staging ─ rename ─► kernels/NAME
//!   tar stream of a directory ─────┘
//! ```
//!
//! A stored kernel is an *uncompressed* x86-64 ELF image, because decompressing a bzImage costs 0.7 s
//! of every boot under TCG, plus the modules a microVM needs: a minimal `boot` set that the agent
//! loads before it mounts anything, and an `extra` set that is merely there for `modprobe`.
//!
//! Limits: one architecture (x86-64); no module is ever loaded or executed here; a kernel is never
//! edited in place, only replaced by a rename.

pub mod deb;
pub mod error;
pub mod feature;
pub mod image;
pub mod import;
pub mod manifest;
pub mod modinfo;
pub mod module_index;
pub mod module_tree;
pub mod name;
pub mod pull;
pub mod store;
pub mod unpack;

pub use error::KernelError;
pub use manifest::Manifest;
pub use name::KernelName;
pub use store::{Kernel, KernelStore};
