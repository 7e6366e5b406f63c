//! One blob on its way from a registry into the cache.
//!
//! An async task talks to the registry; a thread hashes and writes. It is begun once, followed by
//! any number of readers, and ends when the last of its owners is dropped.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::digest::{Digest, RunningDigest};
use crate::error::{Corruption, ImageError, TransportError};
use crate::registry::{Backoff, Failure, Repository};

/// Pieces between the network and the disk; each has at most some hundred KiB.
const QUEUE: usize = 16;
/// Fewer bytes than this are no progress, so that a registry which breaks off at once again and
/// again is given up.
const PROGRESS: u64 = 64 * 1024;

/// A blob that is being fetched, or was.
pub(crate) struct Download {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What the task tells.
pub(super) struct Shared {
    pub file: File,
    /// The file's name until it gets its last one. Kept here and not by the task, which ends some
    /// time after it was told to: what was half done is gone when the last owner is.
    staged: Mutex<Option<TempPath>>,
    digest: Digest,
    size: u64,
    /// Bytes in the file so far: what readers may read.
    written: AtomicU64,
    /// Guards nothing but the wait for `written` to grow or the outcome to come.
    moved: Mutex<()>,
    condition: Condvar,
    outcome: watch::Sender<Outcome>,
}

#[derive(Clone, Default)]
enum Outcome {
    #[default]
    Pending,
    Done,
    /// The error is handed to the first who asks for it.
    Failed(Arc<Mutex<Option<ImageError>>>),
}

/// How far a reader may read.
pub(super) enum Reach {
    To(u64),
    /// Everything is there and right.
    Complete,
    Failed,
}

impl Download {
    pub fn start(
        repository: Arc<Repository>,
        digest: Digest,
        size: u64,
        staged: NamedTempFile,
        destination: PathBuf,
        permits: Arc<Semaphore>,
    ) -> Download {
        // One descriptor for the writer and all readers: an image has many layers.
        let (file, path) = staged.into_parts();
        let place = path.to_path_buf();
        let shared = Arc::new(Shared {
            file,
            staged: Mutex::new(Some(path)),
            digest,
            size,
            written: AtomicU64::new(0),
            moved: Mutex::new(()),
            condition: Condvar::new(),
            outcome: watch::Sender::default(),
        });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let outcome = match permits.acquire().await {
                    Ok(_permit) => fetch(&repository, &shared, place, &destination).await,
                    // The semaphore is never closed.
                    Err(_) => Ok(()),
                };
                drop(shared.take_staged());
                shared.finish(outcome);
            }
        });
        Download {
            shared,
            task: task.abort_handle(),
        }
    }

    pub fn digest(&self) -> Digest {
        self.shared.digest
    }

    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// Bytes that have arrived.
    pub fn arrived(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    pub fn is_failed(&self) -> bool {
        matches!(*self.shared.outcome.borrow(), Outcome::Failed(_))
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Waits for the end. Of several who wait only one gets the cause of a failure.
    pub async fn finished(&self) -> Result<(), ImageError> {
        let mut outcome = self.shared.outcome.subscribe();
        // The sender lives as long as we do.
        let ended = outcome
            .wait_for(|outcome| !matches!(outcome, Outcome::Pending))
            .await
            .map(|outcome| outcome.clone());
        match ended {
            Ok(Outcome::Failed(error)) => Err(error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .unwrap_or_else(|| self.failed_elsewhere())),
            _ => Ok(()),
        }
    }

    fn failed_elsewhere(&self) -> ImageError {
        ImageError::Unreachable {
            registry: "the registry".to_owned(),
            what: format!("blob {}", self.shared.digest),
            source: TransportError::Protocol("another pull could not fetch it either".to_owned()),
        }
    }
}

/// Ends the task, and removes what it has not finished.
impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
        drop(self.shared.take_staged());
    }
}

impl Shared {
    fn take_staged(&self) -> Option<TempPath> {
        self.staged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn finish(&self, outcome: Result<(), ImageError>) {
        self.outcome.send_replace(match outcome {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(Arc::new(Mutex::new(Some(error)))),
        });
        self.wake();
    }

    fn advance(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // Taken so that no reader is between its look and its wait.
        drop(self.moved.lock().unwrap_or_else(PoisonError::into_inner));
        self.condition.notify_all();
    }

    fn reach(&self) -> Reach {
        match &*self.outcome.borrow() {
            Outcome::Pending => Reach::To(self.written.load(Ordering::Acquire)),
            Outcome::Done => Reach::Complete,
            Outcome::Failed(_) => Reach::Failed,
        }
    }

    /// Waits until there is more than `position` bytes, an outcome, or `patience` is over.
    pub fn wait_beyond(&self, position: u64, patience: Duration) -> Reach {
        let guard = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = |_: &mut ()| matches!(self.reach(), Reach::To(written) if written <= position);
        drop(self.condition.wait_timeout_while(guard, patience, stuck));
        self.reach()
    }
}

async fn fetch(
    repository: &Repository,
    shared: &Arc<Shared>,
    place: PathBuf,
    destination: &Path,
) -> Result<(), ImageError> {
    let (chunks, queue) = mpsc::channel(QUEUE);
    let writer = Writer {
        shared: Arc::clone(shared),
        path: place,
    };
    let writer = tokio::task::spawn_blocking(move || writer.run(queue));
    let received = receive(repository, shared, &chunks).await;
    drop(chunks);
    // A write error is why the queue broke, so it is looked at first.
    let (digest, size) = joined(writer).await?;
    received?;
    let what = || format!("blob {}", shared.digest);
    if size != shared.size {
        return Err(ImageError::corrupt(
            what(),
            Corruption::Size {
                expected: shared.size,
                found: size,
            },
        ));
    }
    if digest != shared.digest {
        return Err(ImageError::corrupt(
            what(),
            Corruption::Digest {
                expected: shared.digest,
                found: digest,
            },
        ));
    }
    // Without a name nobody wants it any more.
    shared.take_staged().map_or(Ok(()), |staged| {
        staged
            .persist(destination)
            .map_err(|error| ImageError::io("create", destination, error.error))
    })
}

async fn joined(
    writer: JoinHandle<Result<(Digest, u64), ImageError>>,
) -> Result<(Digest, u64), ImageError> {
    match writer.await {
        Ok(outcome) => outcome,
        Err(error) => Err(ImageError::io(
            "run",
            "the writing thread",
            std::io::Error::other(error),
        )),
    }
}

/// Sends all bytes of the blob to the writer, over as many connections as it takes.
async fn receive(
    repository: &Repository,
    shared: &Shared,
    chunks: &mpsc::Sender<Bytes>,
) -> Result<(), ImageError> {
    let mut backoff = Backoff::new(repository.policy());
    let mut received = 0;
    loop {
        let before = received;
        match receive_once(repository, shared, chunks, &mut received).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                if received - before >= PROGRESS {
                    backoff.progressed();
                }
                backoff.wait(failure).await?;
            }
        }
    }
}

async fn receive_once(
    repository: &Repository,
    shared: &Shared,
    chunks: &mpsc::Sender<Bytes>,
    received: &mut u64,
) -> Result<(), Failure> {
    let what = format!("blob {}", shared.digest);
    let mut body = repository.blob(&shared.digest, *received).await?;
    if let Some(found) = body.end()
        && found != shared.size
    {
        return Err(Failure::fatal(ImageError::corrupt(
            what,
            Corruption::Size {
                expected: shared.size,
                found,
            },
        )));
    }
    // A server that knows no ranges sends again what is here already.
    let mut known = *received - body.start;
    loop {
        let chunk = body
            .chunk()
            .await
            .map_err(|error| Failure::transient(repository.unreachable(&what, error)))?;
        let Some(mut chunk) = chunk else { break };
        let skipped = known.min(chunk.len() as u64);
        known -= skipped;
        let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
        *received += chunk.len() as u64;
        if *received > shared.size {
            return Err(Failure::fatal(ImageError::corrupt(
                what,
                Corruption::TooLong {
                    expected: shared.size,
                },
            )));
        }
        if !chunk.is_empty() && chunks.send(chunk).await.is_err() {
            // The writer has failed, and says why.
            return Ok(());
        }
    }
    if *received < shared.size {
        return Err(Failure::transient(repository.unreachable(
            &what,
            TransportError::Truncated {
                received: *received,
                expected: shared.size,
            },
        )));
    }
    Ok(())
}

struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Writer {
    fn run(self, mut queue: mpsc::Receiver<Bytes>) -> Result<(Digest, u64), ImageError> {
        let mut digest = RunningDigest::new();
        while let Some(chunk) = queue.blocking_recv() {
            (&self.shared.file)
                .write_all(&chunk)
                .map_err(|error| ImageError::io("write", &self.path, error))?;
            // Readers get going before we hash.
            self.shared.advance(chunk.len() as u64);
            digest.update(&chunk);
        }
        Ok((digest.digest(), digest.bytes()))
    }
}
