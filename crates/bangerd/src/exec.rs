//! Joins a client's upgraded connection to a process in a guest.
//!
//! ```text
//!  client ◄── frames ──► passage ◄── frames ──► agent's stream ◄──► process
//!                                     ▲   link lost: attach again after the next hello
//! ```
//!
//! Bytes are passed on as they came, in whole frames, each checked for kind, length and direction
//! before. The two ends give each other credit, so what is held here is bounded; see [`passage`].
//!
//! The client's hang-up becomes a frame, and the agent ends what that client started. A lost link
//! ends nothing: the client sees a pause, and a `lost` frame where the agent had to drop output.
//! What was on its way into stdin when a link failed may be lost.

mod passage;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_protocol::agent::{ExecStarted, MainStatus, OpenRequest};
use banger_protocol::exec::Frame;
use banger_protocol::link::{FrameBuf, LinkStream, StreamReader, StreamWriter, is_link_lost};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::agent::{Agent, GuestError};
use passage::Passage;

/// How long a guest whose link was lost has until its execs are given up.
const REJOIN_BOUND: Duration = Duration::from_secs(300);

/// How long the hang-up frame may take: a guest that does not read must not hold us.
const HANGUP_BOUND: Duration = Duration::from_secs(5);

/// Bytes read from a client at a time: two of the largest frames.
const READ_SIZE: usize = 64 * 1024;

/// What is asked of the agent after a lost link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejoin {
    Exec(u64),
    Main,
}

/// A process in a guest, to be joined with a client.
pub struct GuestExec {
    /// Generation of the agent: which frames it knows.
    pub generation: u32,
    pub(crate) agent: Agent,
    pub(crate) stream: LinkStream,
    pub(crate) rejoin: Rejoin,
    /// This client started it, so its hang-up ends it.
    pub(crate) owned: bool,
    pub(crate) terminal: bool,
    pub(crate) _place: OwnedSemaphorePermit,
    /// Counts a client of `main` until it has gone.
    pub(crate) _guard: Option<JoinGuard>,
}

/// One client more while it lives.
pub(crate) struct JoinGuard(watch::Sender<usize>);

impl JoinGuard {
    pub(crate) fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        JoinGuard(count)
    }
}

impl Drop for JoinGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// How a joined client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinEnd {
    /// The exit status was passed on.
    Exited,
    /// The client went first.
    HungUp,
    /// The machine or its agent is gone.
    GuestGone,
    /// One side broke the rules of the frames.
    Violation,
}

enum Ended {
    Join(JoinEnd),
    LinkLost,
}

/// Both directions, and a bell for when the client's credit let something go.
struct Shared {
    passage: Mutex<Passage>,
    let_go: Notify,
}

impl Shared {
    /// Plain data that is valid at every step, so a panicked holder does no harm.
    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestExec {
    /// Passes frames both ways until the process has ended, the client has hung up or the guest
    /// is gone. The client's connection is shut down at the end.
    pub async fn join<C>(self, client: C) -> JoinEnd
    where
        C: AsyncRead + AsyncWrite + Send,
    {
        let shared = Shared {
            passage: Mutex::new(Passage::new(self.terminal)),
            let_go: Notify::new(),
        };
        let (mut client_reader, mut client_writer) = tokio::io::split(client);
        let mut stream = self.stream;
        let end = loop {
            let (mut guest_reader, mut guest_writer) = stream.into_split();
            let ended = tokio::select! {
                ended = up(&shared, &mut client_reader, &mut guest_writer) => Ended::Join(ended),
                ended = down(&shared, &mut guest_reader, &mut client_writer) => ended,
            };
            if let Ended::Join(end) = ended {
                if matches!(end, JoinEnd::HungUp | JoinEnd::Violation) {
                    if self.owned {
                        hang_up(&mut guest_writer).await;
                    }
                    // Without it, dropping the stream would take back what the client said last.
                    let _ = guest_writer.finish();
                }
                break end;
            }
            drop((guest_reader, guest_writer));
            match attach_again(&self.agent, self.rejoin).await {
                Ok(next) => stream = next,
                Err(error) => {
                    info!(rejoin = ?self.rejoin, %error, "not joined again");
                    break JoinEnd::GuestGone;
                }
            }
            shared.lock().rejoined();
        };
        let _ = client_writer.shutdown().await;
        end
    }
}

/// Client to guest. Ends with the client only: what a guest does not take any more is dropped,
/// and a lost link is for [`down`] to tell, which may be in the middle of a frame to the client.
async fn up(
    shared: &Shared,
    client: &mut (impl AsyncRead + Unpin),
    guest: &mut StreamWriter,
) -> JoinEnd {
    let mut buffer = BytesMut::new();
    let mut deaf = false;
    loop {
        loop {
            let Some(frame) = shared.lock().next_to_guest() else {
                break;
            };
            if !deaf && let Err(error) = guest.write_frame(FrameBuf::copy_of(&frame)).await {
                if is_link_lost(&error) {
                    return std::future::pending().await;
                }
                deaf = true;
            }
            shared.lock().sent_to_guest();
        }
        buffer.reserve(READ_SIZE);
        match client.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return JoinEnd::HungUp,
            Ok(_) => {}
        }
        let sent = shared.lock().client_sent(buffer.split().freeze());
        if let Err(violation) = sent {
            info!(%violation, "a client broke the rules of exec");
            return JoinEnd::Violation;
        }
        shared.let_go.notify_one();
    }
}

/// Guest to client.
async fn down(
    shared: &Shared,
    guest: &mut StreamReader,
    client: &mut (impl AsyncWrite + Unpin),
) -> Ended {
    loop {
        loop {
            let Some(bytes) = shared.lock().next_to_client() else {
                break;
            };
            if client.write_all(&bytes).await.is_err() {
                return Ended::Join(JoinEnd::HungUp);
            }
        }
        let (exited, exiting) = {
            let passage = shared.lock();
            (passage.has_exited(), passage.is_exiting())
        };
        if exited {
            // Flushed with the shutdown that follows.
            return Ended::Join(JoinEnd::Exited);
        }
        let piece: io::Result<Option<Bytes>> = tokio::select! {
            () = shared.let_go.notified() => continue,
            piece = guest.read_chunk(), if !exiting => piece,
        };
        match piece {
            Ok(Some(piece)) => {
                let sent = shared.lock().guest_sent(piece);
                if let Err(violation) = sent {
                    info!(%violation, "a guest broke the rules of exec");
                    return Ended::Join(JoinEnd::Violation);
                }
            }
            Ok(None) => {
                debug!("a guest ended an exec without an exit status");
                return Ended::Join(JoinEnd::GuestGone);
            }
            Err(error) if is_link_lost(&error) => return Ended::LinkLost,
            Err(error) => {
                debug!(%error, "a guest gave up an exec");
                return Ended::Join(JoinEnd::GuestGone);
            }
        }
    }
}

/// Tells the agent that the client is gone for good.
async fn hang_up(guest: &mut StreamWriter) {
    let frame = FrameBuf::copy_of(&Frame::Hangup.to_bytes());
    let told = timeout(HANGUP_BOUND, guest.write_frame(frame)).await;
    if !matches!(told, Ok(Ok(()))) {
        debug!("a hang-up did not reach its guest");
    }
}

async fn attach_again(agent: &Agent, rejoin: Rejoin) -> Result<LinkStream, GuestError> {
    let deadline = Instant::now() + REJOIN_BOUND;
    loop {
        let attached = match rejoin {
            Rejoin::Exec(exec) => agent
                .ask::<ExecStarted>(&OpenRequest::ExecAttach { exec })
                .await
                .map(|(_, stream)| stream),
            Rejoin::Main => agent
                .ask::<MainStatus>(&OpenRequest::MainAttach { replay: false })
                .await
                .map(|(_, stream)| stream),
        };
        match attached {
            Err(GuestError::Silent { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            outcome => return outcome,
        }
    }
}
