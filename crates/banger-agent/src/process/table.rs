//! The processes of exec, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_protocol::agent::ExecEntry;

use super::Process;

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most processes at a time, ended ones included.
    pub processes: usize,
    /// How long the status of one that ended is kept for a client to come back.
    pub keep_ended: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            processes: 1024,
            keep_ended: Duration::from_secs(600),
        }
    }
}

pub struct Table {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    processes: BTreeMap<u64, Arc<Process>>,
}

impl Table {
    pub fn new(limits: Limits) -> Self {
        Table {
            limits,
            inner: Mutex::new(Inner::default()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a new process; `None` while the table is full of running ones.
    pub fn reserve(&self) -> Option<u64> {
        let mut inner = self.inner();
        if inner.processes.len() >= self.limits.processes {
            let oldest = inner
                .processes
                .iter()
                .find(|(_, process)| process.exit_status().is_some() && !process.is_attached())
                .map(|(id, _)| *id)?;
            inner.processes.remove(&oldest);
        }
        inner.last += 1;
        Some(inner.last)
    }

    pub fn insert(&self, process: Arc<Process>) {
        self.inner().processes.insert(process.id, process);
    }

    pub fn get(&self, id: u64) -> Option<Arc<Process>> {
        self.inner().processes.get(&id).cloned()
    }

    pub fn forget(&self, id: u64) {
        self.inner().processes.remove(&id);
    }

    /// To be awaited when a process has ended: forgets it when nobody came for its status.
    pub async fn expire(&self, id: u64) {
        tokio::time::sleep(self.limits.keep_ended).await;
        let mut inner = self.inner();
        if inner
            .processes
            .get(&id)
            .is_some_and(|process| !process.is_attached())
        {
            inner.processes.remove(&id);
        }
    }

    pub fn list(&self) -> Vec<ExecEntry> {
        self.inner()
            .processes
            .values()
            .map(|process| ExecEntry {
                exec: process.id,
                pid: process.pid.cast_unsigned(),
                argv: process.argv.clone(),
                attached: process.is_attached(),
                exited: process.exit_status().is_some(),
            })
            .collect()
    }
}
