//! The link to one guest's agent.
//!
//! ```text
//!            ┌──────────── link lost, back-off ◄───────────┐
//!            ▼                                             │
//!  connect to the machine ──► hello ──► up: events, heartbeats, requests
//! ```
//!
//! One task keeps one link up for as long as the machine lives. Losing it ends nothing: whoever
//! asks meanwhile waits, within a bound, for the next hello. The guest is not trusted: what it
//! says is bounded in length and rate, and changes nothing but the picture of this one VM.
//!
//! Limits: no policy. That an agent is silent is told as a [`Notice`]; what follows from it is
//! the worker's business.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::agent::{
    self as messages, AgentError, AgentErrorKind, AgentEvent, AskError, BootConfig, BootReport,
    Health, Nothing, OpenRequest, Shutdown, VSOCK_PORT,
};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::link::{HostOptions, Link, LinkError, LinkStream, MAX_STREAMS};
use banger_vmm::{Machine, VmmError};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::store::with_sources;

/// Clients joined to processes of one guest. The streams left over are for questions: a guest that
/// could not be asked would be taken for unresponsive, and killed rather than stopped.
const MAX_JOINED: usize = MAX_STREAMS - 64;

/// Longest line of an event.
const EVENT_LIMIT: usize = 64 * 1024;

/// Longest reason of an agent's refusal that is believed, in bytes.
const REASON_LIMIT: usize = 1024;

/// Least time between two events that are looked at: a guest cannot keep the daemon busy.
const EVENT_PACE: Duration = Duration::from_millis(20);

/// How long the events of a lost link are still looked at.
const LAST_EVENTS: Duration = Duration::from_millis(500);

/// Between two attempts to reach the agent: first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How long waiting for the agent takes.
#[derive(Clone, Copy, Debug)]
pub struct AgentSettings {
    /// How long it has to answer a question.
    pub answer: Duration,
    /// How often it is asked whether it is still there.
    pub heartbeat: Duration,
}

/// What the worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It does not answer, after it was ready.
    Silent,
    /// It answers again.
    Answered,
    Event(AgentEvent),
}

/// The state of the link.
#[derive(Clone)]
enum Connection {
    Down {
        reason: String,
    },
    Up {
        link: Link,
        hello: Hello,
    },
    /// The machine is gone; there will be no other link.
    Over,
}

/// What the agent said in its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub generation: u16,
    pub boot_id: [u8; 16],
}

/// Why the guest could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("the guest's agent did not answer within {bound:?} ({reason})")]
    Silent { bound: Duration, reason: String },
    #[error("the machine is gone")]
    Gone,
    #[error("the guest's agent refused: {0}")]
    Refused(AgentError),
    #[error("{most} clients are joined to processes of this guest already")]
    TooMany { most: usize },
    #[error(
        "the process has arguments and variables of {length} bytes, and the guest takes {most}"
    )]
    TooLong { length: usize, most: u32 },
    #[error("the guest's agent broke the protocol")]
    Protocol(#[source] AskError),
}

impl From<GuestError> for ApiError {
    fn from(error: GuestError) -> ApiError {
        let text = with_sources(&error);
        match &error {
            GuestError::Silent { .. } => ApiError::new(ErrorKind::GuestUnreachable, text)
                .hint("see what the guest is doing with banger vm logs --console"),
            GuestError::Gone => ApiError::new(ErrorKind::WrongState, text),
            GuestError::TooMany { .. } => {
                ApiError::new(ErrorKind::TooLarge, text).hint("let one of them end")
            }
            GuestError::TooLong { .. } => ApiError::new(ErrorKind::TooLarge, text)
                .hint("write it to a file in the guest, and pass the file's name"),
            GuestError::Protocol(_) => ApiError::new(ErrorKind::GuestUnreachable, text),
            GuestError::Refused(refusal) => {
                let kind = match refusal.kind {
                    AgentErrorKind::InvalidRequest => ErrorKind::InvalidArgument,
                    AgentErrorKind::NotFound => ErrorKind::NotFound,
                    AgentErrorKind::WrongState => ErrorKind::WrongState,
                    AgentErrorKind::BootFailed | AgentErrorKind::BaseMismatch => {
                        ErrorKind::BootFailed
                    }
                    AgentErrorKind::TooMany => ErrorKind::TooLarge,
                    AgentErrorKind::System | AgentErrorKind::Other => ErrorKind::GuestUnreachable,
                };
                let error = ApiError::new(kind, text);
                match refusal.kind {
                    AgentErrorKind::TooMany => error.hint("let some of what runs there end"),
                    _ => error,
                }
            }
        }
    }
}

/// The agent of one machine; clones share it. The link ends with the last clone's owner, see
/// [`Agent::connect`].
#[derive(Clone)]
pub struct Agent {
    connection: watch::Receiver<Connection>,
    settings: AgentSettings,
    places: Arc<Semaphore>,
}

/// Keeps the link up until it is dropped.
pub struct Keeper {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Agent {
    /// Begins to connect. `fresh` says that nobody was connected to this machine before.
    pub fn connect(
        machine: Arc<dyn Machine>,
        fresh: bool,
        settings: AgentSettings,
    ) -> (Agent, Keeper, mpsc::Receiver<Notice>) {
        let (sender, receiver) = watch::channel(Connection::Down {
            reason: "not connected yet".to_owned(),
        });
        let (notices, inbox) = mpsc::channel(16);
        let agent = Agent {
            connection: receiver,
            settings,
            places: Arc::new(Semaphore::new(MAX_JOINED)),
        };
        let tasks = [
            tokio::spawn(keep_link(machine, fresh, sender, notices.clone())),
            // One that was taken over may have been silent; its first heartbeat is told.
            tokio::spawn(heartbeats(agent.clone(), notices, !fresh)),
        ];
        (agent, Keeper { tasks }, inbox)
    }

    /// The link once it is up, within `bound`.
    async fn link(&self, bound: Duration) -> Result<(Link, Hello), GuestError> {
        let mut connection = self.connection.clone();
        let deadline = Instant::now() + bound;
        loop {
            let reason = match &*connection.borrow_and_update() {
                Connection::Up { link, hello } if link.end_reason().is_none() => {
                    return Ok((link.clone(), *hello));
                }
                Connection::Up { .. } => "the link was lost".to_owned(),
                Connection::Down { reason } => reason.clone(),
                Connection::Over => return Err(GuestError::Gone),
            };
            match timeout_at(deadline, connection.changed()).await {
                Ok(Ok(())) => {}
                // The keeper is gone, so the machine is being put away.
                Ok(Err(_)) => return Err(GuestError::Gone),
                Err(_) => return Err(GuestError::Silent { bound, reason }),
            }
        }
    }

    /// A place for one client that is joined to a process, until it is dropped.
    ///
    /// # Errors
    /// All are taken.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, GuestError> {
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| GuestError::TooMany { most: MAX_JOINED })
    }

    /// Waits for a hello, within `bound`.
    ///
    /// # Errors
    /// The agent is silent, or the machine gone.
    pub async fn hello(&self, bound: Duration) -> Result<Hello, GuestError> {
        Ok(self.link(bound).await?.1)
    }

    /// Waits until there is no link: all that came over the last one has been told then.
    pub async fn disconnected(&self) {
        let mut connection = self.connection.clone();
        // A keeper that is gone holds no link either.
        let _ = connection
            .wait_for(|connection| !matches!(connection, Connection::Up { .. }))
            .await;
    }

    /// Asks something and returns the answer and what follows it.
    ///
    /// # Errors
    /// The agent is silent for longer than `agent_timeout`, refuses, or makes no sense.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        request: &OpenRequest,
    ) -> Result<(T, LinkStream), GuestError> {
        self.ask_within(request, self.settings.answer).await
    }

    /// The same within `bound`, once for the link and once for the answer. Nothing is asked twice.
    async fn ask_within<T: DeserializeOwned>(
        &self,
        request: &OpenRequest,
        bound: Duration,
    ) -> Result<(T, LinkStream), GuestError> {
        let (link, _) = self.link(bound).await?;
        match timeout(bound, messages::ask(&link, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(AskError::Agent(refusal))) => Err(GuestError::Refused(shortened(refusal))),
            Ok(Err(AskError::Link(LinkError::TooManyStreams))) => {
                Err(GuestError::TooMany { most: MAX_JOINED })
            }
            Ok(Err(AskError::Link(LinkError::RequestTooLong { length, most }))) => {
                Err(GuestError::TooLong { length, most })
            }
            Ok(Err(AskError::Link(error))) => Err(silent(bound, &error)),
            Ok(Err(AskError::Lost(error))) => Err(silent(bound, &error)),
            Ok(Err(error)) => Err(GuestError::Protocol(error)),
            Err(_) => Err(GuestError::Silent {
                bound,
                reason: "no answer".to_owned(),
            }),
        }
    }

    /// Makes the guest a machine. A link lost on the way is waited for and the agent asked again,
    /// which it answers with the same report; so it is the caller who bounds this.
    ///
    /// # Errors
    /// The agent refused, or the machine is gone.
    pub async fn boot(
        &self,
        config: BootConfig,
        bound: Duration,
    ) -> Result<BootReport, GuestError> {
        let request = OpenRequest::Boot(Box::new(config));
        loop {
            match self.ask_within::<BootReport>(&request, bound).await {
                Ok((report, _)) => return Ok(report),
                Err(GuestError::Silent { .. }) => sleep(BACK_OFF.0).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// # Errors
    /// As [`Agent::ask`].
    pub async fn health(&self) -> Result<Health, GuestError> {
        Ok(self.ask(&OpenRequest::Health).await?.0)
    }

    /// Asks the guest to end. The answer says that it has begun to.
    ///
    /// # Errors
    /// As [`Agent::ask`], within `bound`.
    pub async fn shut_down(&self, shutdown: Shutdown, bound: Duration) -> Result<(), GuestError> {
        let request = OpenRequest::Shutdown(shutdown);
        self.ask_within::<Nothing>(&request, bound).await.map(drop)
    }
}

/// A guest's reason is stored, logged and listed with its VM, so it does not choose how long it is.
fn shortened(mut refusal: AgentError) -> AgentError {
    shorten(&mut refusal.message);
    refusal
}

/// Bounds a text of the guest's that is kept.
pub(crate) fn shorten(text: &mut String) {
    let mut end = text.len().min(REASON_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn silent(bound: Duration, error: &dyn std::error::Error) -> GuestError {
    GuestError::Silent {
        bound,
        reason: with_sources(error),
    }
}

/// Keeps the link up until the machine is gone.
async fn keep_link(
    machine: Arc<dyn Machine>,
    mut fresh: bool,
    connection: watch::Sender<Connection>,
    notices: mpsc::Sender<Notice>,
) {
    let mut back_off = BACK_OFF.0;
    loop {
        let options = if fresh {
            HostOptions::fresh()
        } else {
            HostOptions::reconnect()
        };
        let reason = match machine.connect(VSOCK_PORT).await {
            Err(VmmError::Gone) => {
                connection.send_replace(Connection::Over);
                return;
            }
            Err(error) => with_sources(&error),
            Ok(pipe) => {
                // From here on bytes of ours may be in the pipe.
                fresh = false;
                match Link::connect(pipe, options).await {
                    Err(error) => with_sources(&error),
                    Ok((link, ack)) => {
                        let since = Instant::now();
                        let hello = Hello {
                            generation: ack.generation,
                            boot_id: ack.boot_id,
                        };
                        connection.send_replace(Connection::Up {
                            link: link.clone(),
                            hello,
                        });
                        let reason = with_sources(&until_lost(&link, &notices).await);
                        link.close();
                        // A guest that drops each link at once must not keep us busy.
                        if since.elapsed() > BACK_OFF.1 {
                            back_off = BACK_OFF.0;
                        }
                        reason
                    }
                }
            }
        };
        debug!(%reason, "the guest link is down");
        connection.send_replace(Connection::Down { reason });
        sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

/// Passes events on until the link is lost, and returns why.
async fn until_lost(link: &Link, notices: &mpsc::Sender<Notice>) -> LinkError {
    let mut events = std::pin::pin!(events(link, notices));
    tokio::select! {
        reason = link.closed() => {
            // What the guest said before, such as how its main ended, is still to be read.
            let _ = timeout(LAST_EVENTS, events).await;
            reason
        }
        // Without its events the picture of this VM would go stale; so begin anew.
        () = &mut events => link.end_reason().unwrap_or(LinkError::Closed),
    }
}

async fn events(link: &Link, notices: &mpsc::Sender<Notice>) {
    let Ok((Nothing {}, mut stream)) = messages::ask(link, &OpenRequest::Events).await else {
        return;
    };
    while let Ok(Some(line)) = stream.read_line(EVENT_LIMIT).await {
        let Ok(event) = serde_json::from_slice::<AgentEvent>(&line) else {
            debug!("the agent sent an event that makes no sense");
            return;
        };
        if notices.send(Notice::Event(event)).await.is_err() {
            return;
        }
        sleep(EVENT_PACE).await;
    }
}

/// Asks again and again whether the agent is there, and tells when that changes.
async fn heartbeats(agent: Agent, notices: mpsc::Sender<Notice>, mut silent: bool) {
    loop {
        sleep(if silent {
            agent.settings.heartbeat.min(Duration::from_secs(1))
        } else {
            agent.settings.heartbeat
        })
        .await;
        let notice = match (agent.health().await, silent) {
            (Err(GuestError::Gone), _) => return,
            (Ok(_), true) => Notice::Answered,
            (Err(error), false) => {
                debug!(%error, "no heartbeat");
                Notice::Silent
            }
            (Ok(_), false) | (Err(_), true) => continue,
        };
        silent = notice == Notice::Silent;
        if notices.send(notice).await.is_err() {
            return;
        }
    }
}

/// Ends with the machine or with the work, whichever is first.
pub(crate) async fn unless_gone<T>(
    machine: &dyn Machine,
    work: impl Future<Output = T>,
) -> Result<T, banger_vmm::Exit> {
    tokio::select! {
        biased;
        outcome = work => Ok(outcome),
        exit = machine.wait() => Err(exit),
    }
}
