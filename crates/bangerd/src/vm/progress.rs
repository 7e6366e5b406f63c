//! Progress of one piece of work that several operations may be waiting for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::operation::Context;

/// Clones share it.
#[derive(Clone, Default)]
pub(super) struct Progress {
    contexts: Arc<Mutex<Vec<Context>>>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Vec<Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, context: Context) {
        self.lock().push(context);
    }

    pub(super) fn stage(&self, stage: &str, detail: impl Into<String>) {
        let detail = detail.into();
        for context in self.lock().iter() {
            context.stage(stage, detail.clone());
        }
    }
}
