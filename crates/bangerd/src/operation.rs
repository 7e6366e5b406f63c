//! Operations: long actions with an id, events and a result.
//!
//! ```text
//!            ┌── client attached: its hang-up cancels
//! start ──► running ──► succeeded | failed | cancelled ──► forgotten
//!            └── others follow, list, cancel                (after `retention`, or when many)
//! ```
//!
//! The work runs in a task of its own, so that no connection can end it half way: cancelling sets
//! a token, and the work decides where it may stop and what it undoes. A panic in the work ends
//! the operation as `internal`, never a follower's stream.

mod log;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use banger_protocol::api::operation::{
    Operation, OperationEvent, OperationKind, OperationResult, OperationState,
};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::OperationId;
use futures_util::{FutureExt, Stream, stream};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{error, info};

use crate::random::hex12;
use log::Log;

/// How much the registry keeps.
#[derive(Clone, Copy, Debug)]
pub struct OperationLimits {
    /// How long the result of an ended operation can be asked for.
    pub retention: Duration,
    /// Operations that may run at once.
    pub max_running: usize,
    /// Ended operations kept; past that the oldest are forgotten early.
    pub max_ended: usize,
}

impl Default for OperationLimits {
    fn default() -> Self {
        OperationLimits {
            retention: Duration::from_secs(600),
            max_running: 256,
            max_ended: 512,
        }
    }
}

/// All operations of this daemon.
#[derive(Clone)]
pub struct Operations {
    shared: Arc<Shared>,
}

struct Shared {
    limits: OperationLimits,
    table: Mutex<Table>,
    /// Ends everything when the daemon stops.
    all: CancellationToken,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<OperationId, Arc<Entry>>,
    /// Ended operations, oldest first.
    ended: VecDeque<(Instant, OperationId)>,
    running: usize,
}

/// One operation, as the registry, its work and its followers share it.
struct Entry {
    log: Mutex<Log>,
    /// Everything but the stage, which is the log's.
    record: Mutex<Operation>,
    started: Instant,
    token: CancellationToken,
    /// Its value means nothing: a change says "look again".
    changed: watch::Sender<()>,
}

/// What the work of an operation is given: where to announce progress, and whether to go on.
#[derive(Clone)]
pub struct Context {
    entry: Arc<Entry>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("id", &self.id()).finish()
    }
}

/// A started or found operation.
#[derive(Clone)]
pub struct Handle {
    entry: Arc<Entry>,
}

/// Cancels the operation when dropped, unless it has ended: the presence of an attached client.
pub struct CancelOnDrop(CancellationToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A lock whose holder panicked still guards plain data that is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn new(kind: OperationKind, subject: String, token: CancellationToken) -> Arc<Self> {
        Arc::new(Entry {
            log: Mutex::default(),
            record: Mutex::new(Operation {
                id: hex12(),
                kind,
                subject,
                state: OperationState::Running,
                stage: String::new(),
                started_at: OffsetDateTime::now_utc(),
                ended_at: None,
                error: None,
                result: None,
            }),
            started: Instant::now(),
            token,
            changed: watch::Sender::new(()),
        })
    }

    fn snapshot(&self) -> Operation {
        let mut operation = lock(&self.record).clone();
        lock(&self.log)
            .current_stage()
            .clone_into(&mut operation.stage);
        operation
    }

    fn end(&self, outcome: Result<OperationResult, ApiError>) {
        lock(&self.log).show();
        {
            let mut record = lock(&self.record);
            record.ended_at = Some(OffsetDateTime::now_utc());
            match outcome {
                Ok(result) => {
                    record.state = OperationState::Succeeded;
                    record.result = Some(result);
                }
                Err(error) => {
                    record.state = if error.kind == ErrorKind::Cancelled {
                        OperationState::Cancelled
                    } else {
                        OperationState::Failed
                    };
                    record.error = Some(error);
                }
            }
        }
        self.changed.send_replace(());
    }
}

impl Context {
    /// A context no registry knows, for work that runs outside an operation.
    pub fn detached() -> Self {
        Context {
            entry: Entry::new(
                OperationKind::VmCreate,
                String::new(),
                CancellationToken::new(),
            ),
        }
    }

    pub fn id(&self) -> OperationId {
        lock(&self.entry.record).id.clone()
    }

    /// Announces a stage; `detail` is for people.
    pub fn stage(&self, stage: &str, detail: impl Into<String>) {
        let detail = detail.into();
        lock(&self.entry.log).stage(stage, &detail, self.entry.started.elapsed());
        self.entry.changed.send_replace(());
    }

    /// Announces bytes done in the current stage. May be called as often as wanted.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        if lock(&self.entry.log).bytes(done, total, self.entry.started.elapsed()) {
            self.entry.changed.send_replace(());
        }
    }

    /// Resolves when the operation is to stop; the work then undoes what is half done and returns
    /// [`Context::cancelled_error`].
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.entry.token.cancelled()
    }

    pub fn is_cancelled(&self) -> bool {
        self.entry.token.is_cancelled()
    }

    pub fn token(&self) -> CancellationToken {
        self.entry.token.clone()
    }

    /// What cancelled work returns.
    pub fn cancelled_error(&self) -> ApiError {
        ApiError::new(ErrorKind::Cancelled, "the operation was cancelled")
    }

    /// Runs work that is undone by dropping it, until it ends or the operation is cancelled.
    ///
    /// # Errors
    /// The work's own, or [`Context::cancelled_error`].
    pub async fn until_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(self.cancelled_error()),
            outcome = work => outcome.map_err(|error| {
                // It may have noticed the end before we did, as a body that breaks off.
                if self.is_cancelled() { self.cancelled_error() } else { error }
            }),
        }
    }
}

impl Handle {
    pub fn id(&self) -> OperationId {
        lock(&self.entry.record).id.clone()
    }

    pub fn snapshot(&self) -> Operation {
        self.entry.snapshot()
    }

    /// Asks the work to stop. Returns at once; nothing happens if it has ended.
    pub fn cancel(&self) {
        self.entry.token.cancel();
    }

    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.entry.token.clone())
    }

    /// `started`, the stages so far, what comes, `ended`.
    pub fn events(&self) -> impl Stream<Item = OperationEvent> + Send + use<> {
        struct Follower {
            entry: Arc<Entry>,
            changed: watch::Receiver<()>,
            seen: u64,
            ready: VecDeque<OperationEvent>,
            ended: bool,
        }
        let changed = self.entry.changed.subscribe();
        let started = OperationEvent::Started {
            operation: self.snapshot(),
        };
        let follower = Follower {
            entry: self.entry.clone(),
            changed,
            seen: 0,
            ready: VecDeque::from([started]),
            ended: false,
        };
        stream::unfold(follower, |mut this| async move {
            loop {
                if let Some(event) = this.ready.pop_front() {
                    return Some((event, this));
                }
                if this.ended {
                    return None;
                }
                this.changed.mark_unchanged();
                // State before log: an ended record means that the log is complete.
                let operation = this.entry.snapshot();
                let (lines, seen) = lock(&this.entry.log).newer_than(this.seen);
                this.seen = seen;
                this.ready.extend(lines);
                if operation.state != OperationState::Running {
                    this.ready.push_back(OperationEvent::Ended { operation });
                    this.ended = true;
                } else if this.ready.is_empty() && this.changed.changed().await.is_err() {
                    // The entry holds the sender, so this cannot be; a stream must end all the same.
                    return None;
                }
            }
        })
    }

    /// The operation once it has ended.
    pub async fn ended(&self) -> Operation {
        let mut changed = self.entry.changed.subscribe();
        loop {
            let operation = self.snapshot();
            if operation.state != OperationState::Running {
                return operation;
            }
            if changed.changed().await.is_err() {
                return operation;
            }
        }
    }
}

impl Operations {
    pub fn new(limits: OperationLimits) -> Self {
        Operations {
            shared: Arc::new(Shared {
                limits,
                table: Mutex::default(),
                all: CancellationToken::new(),
            }),
        }
    }

    /// Starts work in a task of its own.
    ///
    /// # Errors
    /// `too_large` where as many operations run as may.
    pub fn start<W, F>(
        &self,
        kind: OperationKind,
        subject: impl Into<String>,
        work: W,
    ) -> Result<Handle, ApiError>
    where
        W: FnOnce(Context) -> F,
        F: Future<Output = Result<OperationResult, ApiError>> + Send + 'static,
    {
        if self.shared.all.is_cancelled() {
            return Err(ApiError::new(
                ErrorKind::Cancelled,
                "bangerd is stopping and starts nothing new",
            ));
        }
        let entry = Entry::new(kind, subject.into(), self.shared.all.child_token());
        let id = lock(&entry.record).id.clone();
        {
            let mut table = lock(&self.shared.table);
            if table.running >= self.shared.limits.max_running {
                return Err(ApiError::new(
                    ErrorKind::TooLarge,
                    format!("{} operations are running already", table.running),
                )
                .hint("wait for one to end, or cancel one: banger operation list"));
            }
            table.running += 1;
            table.by_id.insert(id.clone(), entry.clone());
        }
        info!(operation = %id, ?kind, "started");
        let context = Context {
            entry: entry.clone(),
        };
        // Built outside the task so that `work` itself need not be Send.
        let work = AssertUnwindSafe(work(context)).catch_unwind();
        let shared = self.shared.clone();
        let running = entry.clone();
        tokio::spawn(async move {
            let outcome = work.await.unwrap_or_else(|panic| {
                let reason = panic_text(panic.as_ref());
                error!(operation = %id, %reason, "panicked");
                Err(ApiError::new(
                    ErrorKind::Internal,
                    format!("the operation failed by a fault of bangerd: {reason}"),
                )
                .hint("please report this, with bangerd's log"))
            });
            match &outcome {
                Ok(_) => {
                    info!(operation = %id, ms = running.started.elapsed().as_millis(), "succeeded")
                }
                Err(error) => {
                    info!(operation = %id, ms = running.started.elapsed().as_millis(), %error, "ended without success");
                }
            }
            running.end(outcome);
            let mut table = lock(&shared.table);
            table.running -= 1;
            table.ended.push_back((Instant::now(), id));
            table.forget(&shared.limits);
        });
        Ok(Handle { entry })
    }

    /// # Errors
    /// `not_found` where no such operation is known (any more).
    pub fn get(&self, id: &OperationId) -> Result<Handle, ApiError> {
        let mut table = lock(&self.shared.table);
        table.forget(&self.shared.limits);
        match table.by_id.get(id) {
            Some(entry) => Ok(Handle {
                entry: entry.clone(),
            }),
            None => Err(
                ApiError::new(ErrorKind::NotFound, format!("there is no operation {id}"))
                    .hint("results are kept a while only; see banger operation list"),
            ),
        }
    }

    /// Running and recently ended ones, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        let entries: Vec<Arc<Entry>> = {
            let mut table = lock(&self.shared.table);
            table.forget(&self.shared.limits);
            table.by_id.values().cloned().collect()
        };
        let mut operations: Vec<Operation> = entries.iter().map(|entry| entry.snapshot()).collect();
        operations.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
        operations
    }

    /// Number of operations running now.
    pub fn running(&self) -> usize {
        lock(&self.shared.table).running
    }

    /// Cancels all, starts no more, and waits until all have undone what was half done, at most
    /// `bound`. Returns how many have not.
    pub async fn shut_down(&self, bound: Duration) -> usize {
        self.shared.all.cancel();
        let entries: Vec<Arc<Entry>> = lock(&self.shared.table).by_id.values().cloned().collect();
        let all = async {
            for entry in entries {
                Handle { entry }.ended().await;
            }
        };
        if tokio::time::timeout(bound, all).await.is_ok() {
            return 0;
        }
        self.running()
    }
}

impl Table {
    fn forget(&mut self, limits: &OperationLimits) {
        while let Some((ended, id)) = self.ended.front() {
            if self.ended.len() <= limits.max_ended && ended.elapsed() < limits.retention {
                break;
            }
            self.by_id.remove(id);
            self.ended.pop_front();
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn deleted(name: &str) -> Result<OperationResult, ApiError> {
        Ok(OperationResult::Deleted {
            name: name.to_owned(),
        })
    }

    fn kinds(events: &[OperationEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                OperationEvent::Started { .. } => "started".to_owned(),
                OperationEvent::Progress { stage, .. } => stage.clone(),
                OperationEvent::Ended { operation } => format!("{:?}", operation.state),
            })
            .collect()
    }

    #[tokio::test]
    async fn early_and_late_followers_see_the_same_stages() {
        let operations = Operations::new(OperationLimits::default());
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let handle = operations
            .start(OperationKind::ImagePull, "x", |context| async move {
                context.stage("resolve", "");
                wait.await.unwrap();
                context.stage("fetch", "");
                deleted("x")
            })
            .unwrap();
        let early = tokio::spawn(handle.events().collect::<Vec<_>>());
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        let early = early.await.unwrap();
        let late: Vec<_> = operations
            .get(&handle.id())
            .unwrap()
            .events()
            .collect()
            .await;
        assert_eq!(kinds(&early), ["started", "resolve", "fetch", "Succeeded"]);
        assert_eq!(kinds(&late), kinds(&early));
        assert_eq!(handle.snapshot().stage, "fetch");
        assert_eq!(operations.running(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_the_operation_and_no_stream() {
        let operations = Operations::new(OperationLimits::default());
        let handle = operations
            .start(OperationKind::VmStart, "x", |_| async { panic!("boom") })
            .unwrap();
        let events: Vec<_> = handle.events().collect().await;
        assert_eq!(kinds(&events), ["started", "Failed"]);
        let error = handle.ended().await.error.unwrap();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("boom"));
    }

    #[tokio::test]
    async fn dropping_the_attached_client_cancels_and_the_work_undoes() {
        let operations = Operations::new(OperationLimits::default());
        let undone = Arc::new(Mutex::new(false));
        let flag = undone.clone();
        let handle = operations
            .start(OperationKind::VmCreate, "x", move |context| async move {
                context.cancelled().await;
                *lock(&flag) = true;
                Err(context.cancelled_error())
            })
            .unwrap();
        drop(handle.cancel_on_drop());
        assert_eq!(handle.ended().await.state, OperationState::Cancelled);
        assert!(*lock(&undone));
    }

    #[tokio::test]
    async fn results_are_kept_a_while_and_not_many() {
        let operations = Operations::new(OperationLimits {
            max_ended: 3,
            ..OperationLimits::default()
        });
        let mut ids = Vec::new();
        for _ in 0..5 {
            let handle = operations
                .start(OperationKind::VmStop, "x", |_| async { deleted("x") })
                .unwrap();
            handle.ended().await;
            ids.push(handle.id());
        }
        tokio::task::yield_now().await;
        assert_eq!(operations.list().len(), 3);
        assert!(operations.get(&ids[0]).is_err());
        assert!(operations.get(&ids[4]).is_ok());

        let short = Operations::new(OperationLimits {
            retention: Duration::ZERO,
            ..OperationLimits::default()
        });
        let handle = short
            .start(OperationKind::VmStop, "x", |_| async { deleted("x") })
            .unwrap();
        handle.ended().await;
        tokio::task::yield_now().await;
        assert_eq!(
            short.get(&handle.id()).err().unwrap().kind,
            ErrorKind::NotFound
        );
    }

    #[tokio::test]
    async fn shutting_down_cancels_all_and_refuses_more() {
        let operations = Operations::new(OperationLimits {
            max_running: 2,
            ..OperationLimits::default()
        });
        let wait = |context: Context| async move {
            context
                .until_cancelled(std::future::pending::<Result<OperationResult, ApiError>>())
                .await
        };
        let first = operations
            .start(OperationKind::ImagePull, "a", wait)
            .unwrap();
        let _second = operations
            .start(OperationKind::ImagePull, "b", wait)
            .unwrap();
        let third = operations.start(OperationKind::ImagePull, "c", wait);
        assert_eq!(third.err().unwrap().kind, ErrorKind::TooLarge);
        assert_eq!(operations.shut_down(Duration::from_secs(5)).await, 0);
        assert_eq!(first.snapshot().state, OperationState::Cancelled);
        let after = operations.start(OperationKind::ImagePull, "d", wait);
        assert_eq!(after.err().unwrap().kind, ErrorKind::Cancelled);
    }
}
