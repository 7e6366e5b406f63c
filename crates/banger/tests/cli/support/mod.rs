//! A bangerd that says what a test wants, and the real CLI against it.

pub mod fake;
pub mod frames;
pub mod run;
pub mod samples;

pub use fake::{Answer, Fake, Request};
pub use frames::Process;
pub use run::Run;
