//! The daemon: what exists, what may happen next, and who may ask.
//!
//! ```text
//! api ──► operation ──► image, kernel ──► banger-image
//!                  └──► vm ──► store, banger-vmm, agent
//! ```
//!
//! `main.rs` builds the parts and hands them to [`daemon`]; tests build other parts.

pub mod agent;
pub mod agent_program;
pub mod api;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod exec;
pub mod image;
pub mod instance;
pub mod kernel;
pub mod logging;
pub mod operation;
pub mod process;
mod progress;
pub mod random;
pub mod real;
mod request_body;
pub mod services;
pub mod socket;
pub mod store;
pub mod vm;
