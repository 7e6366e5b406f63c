//! The owner of one VM.
//!
//! One task per VM holds its state; whoever wants something sends a [`Command`], whoever wants to
//! know watches the [`View`]. A state is announced in one place ([`Worker::announce`]): numbered,
//! stored, published, logged once. While the guest boots or ends, commands are still looked at:
//! stop and delete cut a start short, and shorten a stop. How a machine ends is [`ending`], what
//! becomes of `main` is [`run_main`].

mod ending;
mod run_main;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::agent::{AgentEvent, MainStatus};
use banger_protocol::api::vm::{MainProcess, MainState};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{VmId, VmName};
use banger_vmm::{Exit, Machine};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::VmDeps;
use super::resources::{self, Scope};
use super::spec::{Observed, VmSpec};
use super::start::{Recipe, Started};
use super::state::{Event, State};
use super::waiters::Waiters;
use crate::agent::{Agent, Keeper, Notice};
use crate::operation::Context;

/// Time a guest has to end before its VM is deleted: its disk goes anyway.
const DELETE_BOUND: Duration = Duration::from_secs(5);

/// How long the last output of `main` may take to arrive once the machine has ended.
const DRAIN_BOUND: Duration = Duration::from_secs(2);

/// How the note begins of a guest that is silent because the host's disk is full.
const DISK_NOTE: &str = "its disk cannot be written";

/// Bytes free on a file system that is called full.
const FULL: u64 = 1 << 20;

pub(super) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// What a worker is asked.
pub(super) enum Command {
    Start {
        context: Context,
        reply: Reply<()>,
    },
    Stop {
        timeout: Duration,
        context: Context,
        reply: Reply<()>,
    },
    Delete {
        context: Context,
        reply: Reply<()>,
    },
    /// A client is about to start this as `main`.
    MainWanted {
        command: Vec<ByteString>,
        reply: oneshot::Sender<()>,
    },
    /// The guest has started it for that client.
    MainStarted {
        command: Vec<ByteString>,
        status: MainStatus,
        reply: oneshot::Sender<()>,
    },
}

impl Command {
    /// The time a guest still has to end, where this asks for its end.
    pub(super) fn stop_bound(&self) -> Option<Duration> {
        match self {
            Command::Stop { timeout, .. } => Some(*timeout),
            Command::Delete { .. } => Some(DELETE_BOUND),
            Command::Start { .. } | Command::MainWanted { .. } | Command::MainStarted { .. } => {
                None
            }
        }
    }
}

/// What everybody may know about a VM.
#[derive(Clone)]
pub(super) struct View {
    pub state: State,
    pub transition: u64,
    pub observed: Arc<Observed>,
    /// The guest, while there is one that was ready.
    pub agent: Option<Agent>,
    /// It was deleted.
    pub gone: bool,
}

/// Whether the worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Stay,
    Gone,
}

/// A machine that runs, and what keeps us in touch with it.
struct Run {
    machine: Arc<dyn Machine>,
    agent: Agent,
    _keeper: Keeper,
    notices: mpsc::Receiver<Notice>,
    exit: AbortOnDrop<Exit>,
    /// Takes over the output of `main`.
    pump: Option<AbortOnDrop<()>>,
    /// The machine has ended: no link will come again.
    ended: CancellationToken,
    ready_at: Instant,
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Wake {
    Command(Command),
    Ended(Exit),
    Notice(Notice),
    /// An ephemeral VM's `main` has ended and nobody reads its output any more, or it never came.
    Spent(&'static str),
}

pub(super) struct Worker {
    pub deps: Arc<VmDeps>,
    pub id: VmId,
    pub name: VmName,
    pub spec: Arc<VmSpec>,
    pub state: State,
    pub transition: u64,
    pub observed: Observed,
    pub commands: mpsc::Receiver<Command>,
    pub view: watch::Sender<View>,
    /// Clients joined to `main` now.
    pub joined: watch::Receiver<usize>,
    pub waiting: VecDeque<Command>,
    run: Option<Run>,
    removal: Option<AbortOnDrop<()>>,
    /// Until when a client must have started the `main` of an ephemeral VM.
    main_due: Option<Instant>,
    quick_reboots: u32,
}

/// The parts of a worker that others hold.
pub(super) struct Handles {
    pub commands: mpsc::Sender<Command>,
    pub view: watch::Receiver<View>,
    pub joined: watch::Sender<usize>,
}

impl Worker {
    pub(super) fn new(
        deps: Arc<VmDeps>,
        id: VmId,
        name: VmName,
        spec: Arc<VmSpec>,
        (state, transition, observed): (State, u64, Observed),
    ) -> (Worker, Handles) {
        let (commands, inbox) = mpsc::channel(32);
        let (view, views) = watch::channel(View {
            state,
            transition,
            observed: Arc::new(observed.clone()),
            agent: None,
            gone: false,
        });
        let (joined, joins) = watch::channel(0);
        let worker = Worker {
            deps,
            id,
            name,
            spec,
            state,
            transition,
            observed,
            commands: inbox,
            view,
            joined: joins,
            waiting: VecDeque::new(),
            run: None,
            removal: None,
            main_due: None,
            quick_reboots: 0,
        };
        let handles = Handles {
            commands,
            view: views,
            joined,
        };
        (worker, handles)
    }

    /// Serves until the VM is gone or every handle is.
    pub(super) async fn serve(mut self) {
        while let Some(wake) = self.next().await {
            let flow = match wake {
                Wake::Command(command) => self.command(command).await,
                Wake::Ended(exit) => self.ended(exit).await,
                Wake::Notice(notice) => {
                    self.notice(notice);
                    Flow::Stay
                }
                Wake::Spent(why) => {
                    info!(vm = %self.name, why, "removing an ephemeral VM");
                    self.remove_quietly().await
                }
            };
            if flow == Flow::Gone {
                return;
            }
        }
    }

    async fn next(&mut self) -> Option<Wake> {
        if let Some(command) = self.waiting.pop_front() {
            return Some(Wake::Command(command));
        }
        let main_due = self.main_due;
        let overdue = async {
            match main_due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let removal = async {
            match &mut self.removal {
                Some(removal) => {
                    // A panic in there is an end of the wait, too.
                    let _ = (&mut removal.0).await;
                }
                None => std::future::pending().await,
            }
        };
        let Some(run) = &mut self.run else {
            return self.commands.recv().await.map(Wake::Command);
        };
        tokio::select! {
            exit = &mut run.exit.0 => Some(Wake::Ended(exit.unwrap_or(Exit::Unknown))),
            Some(notice) = run.notices.recv() => Some(Wake::Notice(notice)),
            command = self.commands.recv() => command.map(Wake::Command),
            () = removal => Some(Wake::Spent("its main ended")),
            () = overdue => Some(Wake::Spent("nobody started its main")),
        }
    }

    async fn command(&mut self, command: Command) -> Flow {
        match command {
            Command::Start { context, reply } => {
                if self.state.next(Event::Start).is_none() {
                    // It runs already: what was asked for is so.
                    let _ = reply.send(Ok(()));
                    return Flow::Stay;
                }
                self.quick_reboots = 0;
                self.start(Event::Start, Waiters::one(context, reply)).await
            }
            Command::Stop {
                timeout,
                context,
                reply,
            } => {
                let outcome = if self.run.is_some() {
                    context.stage("stop", format!("VM {}", self.name));
                    self.stop(timeout).await
                } else {
                    // Not running; but what a failed end left behind may go now.
                    resources::release(&self.deps.store, &*self.deps.host, &self.id, Scope::Run)
                        .await
                };
                let gone = outcome.is_ok() && self.spent_by_end();
                let _ = reply.send(outcome);
                if gone {
                    return self.remove_quietly().await;
                }
                Flow::Stay
            }
            Command::Delete { context, reply } => {
                context.stage("delete", format!("VM {}", self.name));
                let outcome = self.remove(DELETE_BOUND).await;
                let flow = if outcome.is_ok() {
                    Flow::Gone
                } else {
                    Flow::Stay
                };
                let _ = reply.send(outcome);
                flow
            }
            Command::MainWanted { command, reply } => {
                let runs =
                    matches!(&self.observed.main, Some(main) if main.state == MainState::Running);
                if !runs && self.run.is_some() {
                    self.observed.main = Some(MainProcess {
                        command,
                        state: MainState::Waiting,
                        exit_code: None,
                        persistent: false,
                    });
                    self.persist();
                }
                let _ = reply.send(());
                Flow::Stay
            }
            Command::MainStarted {
                command,
                status,
                reply,
            } => {
                if self.run.is_some()
                    && let Some(main) = &mut self.observed.main
                {
                    // Another client may have wanted something else meanwhile.
                    main.command = command;
                    // The guest's events may have told it, and even its end, already.
                    if main.state == MainState::Waiting {
                        self.main_status(status);
                    } else {
                        self.persist();
                    }
                }
                let _ = reply.send(());
                Flow::Stay
            }
        }
    }

    /// The one place where a state changes.
    fn announce(&mut self, event: Event) -> bool {
        let Some(next) = self.state.next(event) else {
            debug!(vm = %self.name, state = self.state.name(), ?event, "does not apply");
            return false;
        };
        let from = self.state;
        self.state = next;
        self.transition += 1;
        info!(
            vm = %self.name,
            id = %self.id,
            from = from.name(),
            to = next.name(),
            transition = self.transition,
            "state"
        );
        self.persist();
        true
    }

    /// Stores and publishes what is known now.
    pub(super) fn persist(&self) {
        let stored =
            self.deps
                .store
                .update_vm(&self.id, self.state, self.transition, &self.observed);
        if let Err(error) = stored {
            // The next change tries again; meanwhile memory is right and the store is behind.
            error!(vm = %self.name, %error, "a VM's state was not stored");
        }
        self.view.send_replace(View {
            state: self.state,
            transition: self.transition,
            observed: Arc::new(self.observed.clone()),
            agent: self.run.as_ref().map(|run| run.agent.clone()),
            gone: false,
        });
    }

    /// Boots, and answers whoever waits.
    pub(super) async fn start(&mut self, event: Event, mut waiters: Waiters) -> Flow {
        if let Err(mut error) = self.release(Scope::Run).await {
            if event == Event::Rebooted {
                // Its machine is gone, so it must not go on to be called running.
                error.message = format!("VM {} did not restart: {}", self.name, error.message);
                let again = || format!("banger vm start {}", self.name);
                error.hint.get_or_insert_with(again);
                self.observed.failure = Some(error.clone());
                self.announce(Event::Died);
            }
            waiters.answer(Err(error));
            return Flow::Stay;
        }
        self.observed.failure = None;
        self.observed.note = None;
        // What a client ran is of the last boot; what the spec says runs again.
        self.observed.main = self.observed.main.take().filter(|main| main.persistent);
        if let Some(main) = &mut self.observed.main {
            main.state = MainState::Waiting;
            main.exit_code = None;
        }
        if !self.announce(event) {
            waiters.answer(Err(self.wrong_state("start")));
            return Flow::Stay;
        }
        let progress = waiters.progress.clone();
        let cancel = CancellationToken::new();
        let recipe = Recipe {
            deps: self.deps.clone(),
            id: self.id.clone(),
            name: self.name.clone(),
            spec: self.spec.clone(),
            transition: self.transition,
            observed: self.observed.clone(),
            progress,
            cancel: cancel.clone(),
        };
        let mut recipe = Box::pin(recipe.run());
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut recipe => break outcome,
                Some(command) = self.commands.recv() => match command {
                    // One that comes after this start was cut short wants another.
                    Command::Start { context, reply } if !cancel.is_cancelled() => {
                        waiters.add(context, reply);
                    }
                    Command::MainWanted { reply, .. } | Command::MainStarted { reply, .. } => drop(reply),
                    command => {
                        cancel.cancel();
                        self.waiting.push_back(command);
                    }
                },
                () = waiters.all_cancelled() => cancel.cancel(),
            }
        };
        match outcome {
            Ok(started) => {
                self.observed = started.observed.clone();
                self.keep(started);
                self.announce(Event::Ready);
                self.start_persistent_main().await;
                waiters.answer(Ok(()));
                Flow::Stay
            }
            Err(failure) => {
                if let Some(machine) = failure.machine
                    && let Err(error) = machine.kill().await
                {
                    warn!(vm = %self.name, %error, "a machine was not killed by its driver");
                }
                self.observed = failure.observed;
                let scope = Scope::after_failed_start(self.observed.started_at.is_some());
                if self.release(scope).await.is_ok() {
                    self.observed.machine = None;
                }
                let error = failure.error;
                if cancel.is_cancelled() {
                    self.observed.note = Some("its start was cancelled".to_owned());
                    self.announce(Event::StartCancelled);
                } else {
                    self.observed.failure = Some(error.clone());
                    self.announce(Event::StartFailed);
                }
                waiters.answer(Err(error));
                Flow::Stay
            }
        }
    }

    /// Takes charge of a machine whose agent is known.
    pub(super) fn keep(&mut self, started: Started) {
        let machine = started.machine.clone();
        let exit = tokio::spawn(async move { machine.wait().await });
        self.run = Some(Run {
            machine: started.machine,
            agent: started.agent,
            _keeper: started.keeper,
            notices: started.notices,
            exit: AbortOnDrop(exit),
            pump: None,
            ended: CancellationToken::new(),
            ready_at: Instant::now(),
        });
        if self.spec.ephemeral && self.spec.main.is_none() {
            self.main_due = Some(Instant::now() + self.deps.settings.main_grace);
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Silent => {
                if let Some(why) = full_disk(&self.deps.directory) {
                    self.observed.note = Some(why);
                }
                self.announce(Event::Silent);
            }
            Notice::Answered => {
                self.observed
                    .note
                    .take_if(|note| note.starts_with(DISK_NOTE));
                self.announce(Event::Answered);
            }
            Notice::Event(AgentEvent::Main { status }) => self.main_status(status),
            Notice::Event(AgentEvent::GoingDown { how }) => {
                debug!(vm = %self.name, ?how, "the guest is going down");
            }
            Notice::Event(AgentEvent::Other) => {}
        }
    }

    fn wrong_state(&self, deed: &str) -> ApiError {
        ApiError::new(
            ErrorKind::WrongState,
            format!(
                "cannot {deed} VM {}: it is {}",
                self.name,
                self.state.name()
            ),
        )
    }

    /// Takes a machine over from an earlier daemon. Whether it answers shows soon.
    pub(super) fn adopt(&mut self, machine: Arc<dyn Machine>) -> Agent {
        let (agent, keeper, notices) =
            Agent::connect(machine.clone(), false, self.deps.settings.agent);
        self.keep(Started {
            machine,
            agent: agent.clone(),
            keeper,
            notices,
            observed: self.observed.clone(),
        });
        if self
            .observed
            .main
            .as_ref()
            .is_some_and(|main| main.state != MainState::Waiting)
        {
            self.main_due = None;
        }
        agent
    }

    pub(super) fn happened(&mut self, event: Event) {
        self.announce(event);
    }
}

/// Why a guest may be silent that waits for its disk: a VMM stops a machine whose write finds no
/// room, rather than tell the guest of an error that no disk has.
fn full_disk(directory: &Path) -> Option<String> {
    let room = rustix::fs::statvfs(directory).ok()?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    (free < FULL).then(|| {
        format!(
            "{DISK_NOTE}: the file system of {} is full; make room on it",
            directory.display()
        )
    })
}
