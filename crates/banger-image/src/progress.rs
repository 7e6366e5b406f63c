//! How long work tells what it is doing: one closure, called now and then from any thread.

use std::fmt;
use std::sync::Arc;

/// A moment of long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// One lower-case word or two: `resolve`, `download`, `import`.
    pub stage: &'static str,
    /// What is being worked on, for people.
    pub detail: &'a str,
    pub bytes_done: u64,
    /// `None` while it is not known.
    pub bytes_total: Option<u64>,
}

/// Receives the steps of one piece of work. It must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&Step<'_>) + Send + Sync>);

impl Progress {
    pub fn new(receive: impl Fn(&Step<'_>) + Send + Sync + 'static) -> Progress {
        Progress(Arc::new(receive))
    }

    /// Nobody is interested.
    pub fn none() -> Progress {
        Progress::new(|_| {})
    }

    pub fn step(&self, step: &Step<'_>) {
        (self.0)(step);
    }

    /// A stage without a count of bytes begins.
    pub fn stage(&self, stage: &'static str, detail: &str) {
        self.bytes(stage, detail, 0, None);
    }

    pub fn bytes(&self, stage: &'static str, detail: &str, done: u64, total: Option<u64>) {
        self.step(&Step {
            stage,
            detail,
            bytes_done: done,
            bytes_total: total,
        });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
