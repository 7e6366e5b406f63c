//! The real host, told to fail or to lose its daemon at a step.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use banger_protocol::name::VmId;
use banger_vmm::Exit;
use banger_vmm::fake::FakeVmm;
use bangerd::vm::host::RealHost;
use bangerd::vm::resources::{Host, HostError, Resource};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;

/// What happens at the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails, with nothing done.
    FailsBefore,
    /// It fails, with everything done.
    FailsAfter,
    /// It never returns, with nothing done: the daemon died before.
    CrashBefore,
    /// It never returns, with everything done: the daemon died after.
    CrashAfter,
}

impl Trouble {
    pub const ALL: [Trouble; 4] = [
        Trouble::FailsBefore,
        Trouble::FailsAfter,
        Trouble::CrashBefore,
        Trouble::CrashAfter,
    ];

    pub fn is_crash(self) -> bool {
        matches!(self, Trouble::CrashBefore | Trouble::CrashAfter)
    }
}

/// Counts the calls from when trouble was asked for.
pub struct FaultyHost {
    inner: Arc<RealHost>,
    vmm: FakeVmm,
    step: AtomicUsize,
    /// First and last step that go wrong.
    trouble: Mutex<Option<(RangeInclusive<usize>, Trouble)>>,
    /// Rung when a crash is due.
    pub crashed: Notify,
}

impl FaultyHost {
    pub fn new(inner: Arc<RealHost>, vmm: FakeVmm) -> Arc<Self> {
        Arc::new(FaultyHost {
            inner,
            vmm,
            step: AtomicUsize::new(0),
            trouble: Mutex::new(None),
            crashed: Notify::new(),
        })
    }

    /// From now on, the `step`th call from 0 goes wrong; `None` ends all trouble.
    pub fn set(&self, trouble: Option<(usize, Trouble)>) {
        self.begin(trouble.map(|(step, trouble)| (step..=step, trouble)));
    }

    /// From now on, every call from the `step`th on goes wrong.
    pub fn set_from(&self, step: usize, trouble: Trouble) {
        self.begin(Some((step..=usize::MAX, trouble)));
    }

    fn begin(&self, trouble: Option<(RangeInclusive<usize>, Trouble)>) {
        self.step.store(0, Ordering::SeqCst);
        *self.trouble.lock().unwrap() = trouble;
    }

    /// Calls since then.
    pub fn steps(&self) -> usize {
        self.step.load(Ordering::SeqCst)
    }

    async fn with_trouble(
        &self,
        work: impl Future<Output = Result<(), HostError>> + Send,
    ) -> Result<(), HostError> {
        let step = self.step.fetch_add(1, Ordering::SeqCst);
        let trouble = self.trouble.lock().unwrap().clone();
        let Some((_, trouble)) = trouble.filter(|(steps, _)| steps.contains(&step)) else {
            return work.await;
        };
        if matches!(trouble, Trouble::FailsAfter | Trouble::CrashAfter) {
            work.await?;
        }
        if trouble.is_crash() {
            self.crashed.notify_one();
            return std::future::pending().await;
        }
        Err(HostError::Other(format!("trouble at step {step}")))
    }
}

impl Host for FaultyHost {
    fn acquire<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.with_trouble(self.inner.acquire(vm, resource)).boxed()
    }

    fn release<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.with_trouble(async move {
            if *resource == Resource::Machine {
                // What the real host does to a process that is left in the jail.
                self.vmm.end(vm.as_str(), Exit::Killed);
            }
            self.inner.release(vm, resource).await
        })
        .boxed()
    }

    fn leftovers(&self) -> Result<Vec<VmId>, HostError> {
        self.inner.leftovers()
    }
}
