//! The daemon: what exists, what may happen next, and who may ask.
//!
//! ```text
//! api ──► operation ──► image, kernel ──► banger-image
//!                  └──► vm ──► store, banger-vmm, agent
//! ```
//!
//! `main.rs` builds the parts and hands them to [`daemon`]; tests build other parts.

pub mod config;
pub mod operation;
pub mod random;
pub mod store;
pub mod vm;
