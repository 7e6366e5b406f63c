//! What the programs say to each other.
//!
//! - [`api`]: bangerd's HTTP API, the types behind the committed OpenAPI document.
//! - [`link`], [`agent`], [`exec`]: the guest link, its messages, and the frames of exec.
//! - [`name`], [`size`], [`bytes`]: checked values which both ends parse the same way.
//! - [`error`]: the kinds of failure, their exit codes and HTTP status.
//!
//! Limits: no I/O except over streams handed in, no paths, and no other banger crate.

pub mod agent;
pub mod api;
pub mod build;
pub mod bytes;
pub mod error;
pub mod exec;
pub mod link;
pub mod name;
pub mod size;
