//! The owner of one VM.
//!
//! One task per VM holds its state; whoever wants something sends a [`Command`], whoever wants to
//! know watches the [`View`]. A state is announced in one place ([`Worker::announce`]): numbered,
//! stored, published, logged once. While the guest boots or ends, commands are still looked at:
//! stop and delete cut a start short, and shorten a stop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::agent::{
    AgentEvent, MainStart, MainState as GuestMain, MainStatus, OpenRequest,
};
use banger_protocol::api::vm::{MainProcess, MainState};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::exec::ExitStatus;
use banger_protocol::name::{VmId, VmName};
use banger_vmm::{Exit, Machine};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::main_process::{main_command, process_spec};
use super::resources::{self, Scope};
use super::spec::{Observed, VmSpec};
use super::start::{Recipe, Started};
use super::state::{Event, State};
use super::stop::{self, Stopped};
use super::waiters::Waiters;
use super::{VmDeps, main_pump};
use crate::agent::{Agent, Keeper, Notice};
use crate::operation::Context;

/// Time a guest has to end before its VM is deleted: its disk goes anyway.
const DELETE_BOUND: Duration = Duration::from_secs(5);

/// How long the last output of `main` may take to arrive once the machine has ended.
const DRAIN_BOUND: Duration = Duration::from_secs(2);

/// How long what a guest said before its end has to be heard.
const LAST_WORDS_BOUND: Duration = Duration::from_secs(1);

/// A guest that reboots this often, each time this soon after it was ready, is broken.
const REBOOTS: (u32, Duration) = (5, Duration::from_secs(10));

/// Lines of the console in the reason of a machine's death.
const CONSOLE_LINES: usize = 20;

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
        if let Err(error) = self.release(Scope::Run).await {
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
                    Command::Start { context, reply } => waiters.add(context, reply),
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

    /// Starts the `main` of the spec. Its failure is the VM's note, not its end: it is a machine.
    async fn start_persistent_main(&mut self) {
        let (Some(main), Some(init)) = (&self.spec.main, self.observed.init) else {
            return;
        };
        let Some(command) = main_command(&self.spec.image_config, init, &main.command) else {
            self.observed.main = None;
            return;
        };
        let Some(run) = &self.run else { return };
        let request = OpenRequest::MainStart(MainStart {
            process: process_spec(&self.spec, command.clone()),
            attach: false,
        });
        self.observed.main = Some(MainProcess {
            command,
            state: MainState::Waiting,
            exit_code: None,
            persistent: true,
        });
        match run.agent.ask::<MainStatus>(&request).await {
            Ok((status, _)) => self.main_status(status),
            Err(error) => {
                self.observed.note = Some(format!("its main was not started: {error}"));
                self.persist();
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Silent => {
                self.announce(Event::Silent);
            }
            Notice::Answered => {
                self.announce(Event::Answered);
            }
            Notice::Event(AgentEvent::Main { status }) => self.main_status(status),
            Notice::Event(AgentEvent::GoingDown { how }) => {
                debug!(vm = %self.name, ?how, "the guest is going down");
            }
            Notice::Event(AgentEvent::Other) => {}
        }
    }

    /// The guest says how its `main` is.
    fn main_status(&mut self, status: MainStatus) {
        let Some(main) = &mut self.observed.main else {
            return;
        };
        let before = (main.state, main.exit_code);
        match status.state {
            GuestMain::Waiting => return,
            GuestMain::Running { .. } => {
                main.state = MainState::Running;
                main.exit_code = None;
            }
            GuestMain::Exited { status } => {
                main.state = MainState::Exited;
                main.exit_code = Some(exit_code(&status));
            }
        }
        let now = (main.state, main.exit_code);
        self.main_due = None;
        self.start_pump();
        if now == before {
            return;
        }
        info!(vm = %self.name, state = ?now.0, exit_code = now.1, "main");
        self.persist();
        if now.0 == MainState::Exited && self.spec.ephemeral && self.removal.is_none() {
            self.removal = Some(self.until_output_was_read());
        }
    }

    /// Begins to take over the output of `main`, unless that was begun.
    fn start_pump(&mut self) {
        let number = self.run_number();
        let Some(run) = &mut self.run else { return };
        if run.pump.as_ref().is_some_and(|pump| !pump.0.is_finished()) {
            return;
        }
        let pump = main_pump::pump(
            run.agent.clone(),
            self.deps.directory.join(self.id.as_str()),
            number,
            self.deps.settings.main_log_bound,
            run.ended.clone(),
        );
        run.pump = Some(AbortOnDrop(tokio::spawn(pump)));
    }

    /// Names the run in the log: the millisecond in which it became ready, which survives a
    /// restart of the daemon and grows from run to run.
    fn run_number(&self) -> u64 {
        self.observed
            .started_at
            .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
            .unwrap_or_default()
    }

    /// Resolves when no client is joined to `main` any more and its output is in the log.
    fn until_output_was_read(&mut self) -> AbortOnDrop<()> {
        let mut joined = self.joined.clone();
        let pump = self.run.as_mut().and_then(|run| run.pump.take());
        AbortOnDrop(tokio::spawn(async move {
            if let Some(mut pump) = pump {
                let _ = timeout(DRAIN_BOUND, &mut pump.0).await;
            }
            let _ = joined.wait_for(|count| *count == 0).await;
        }))
    }

    /// The machine ended, and we did not do it.
    async fn ended(&mut self, exit: Exit) -> Flow {
        let Some(run) = self.run.take() else {
            return Flow::Stay;
        };
        let lived = run.ready_at.elapsed();
        let console = run.machine.console_tail(CONSOLE_LINES);
        self.put_away(run).await;
        match exit {
            Exit::Reboot if !(self.spec.ephemeral && self.spec.main.is_none()) => {
                self.quick_reboots = if lived < REBOOTS.1 {
                    self.quick_reboots + 1
                } else {
                    0
                };
                if self.quick_reboots < REBOOTS.0 {
                    return self.start(Event::Rebooted, Waiters::none()).await;
                }
                self.fail(
                    ErrorKind::BootFailed,
                    format!(
                        "VM {} restarted itself {} times, each time within {:?} of being ready",
                        self.name, REBOOTS.0, REBOOTS.1
                    ),
                    &console,
                );
                Flow::Stay
            }
            Exit::Died { reason } => {
                self.fail(
                    ErrorKind::MachineDied,
                    format!("the machine of VM {} died: {reason}", self.name),
                    &console,
                );
                Flow::Stay
            }
            Exit::PowerOff | Exit::Reboot | Exit::Killed | Exit::Unknown => {
                self.observed.note = match exit {
                    Exit::Killed => Some("its VMM was killed".to_owned()),
                    Exit::Unknown => Some("its VMM ended; how is not known".to_owned()),
                    _ => None,
                };
                self.announce(Event::Ended);
                if self.spent_by_end() {
                    return self.remove_quietly().await;
                }
                Flow::Stay
            }
        }
    }

    pub(super) fn fail(&mut self, kind: ErrorKind, message: String, console: &str) {
        self.observed.failure = Some(
            ApiError::new(kind, message)
                .hint(format!("banger vm logs --console {}", self.name))
                .details(console.lines().map(str::to_owned).collect()),
        );
        self.announce(Event::Died);
    }

    /// Whether the end of the machine is the end of the VM.
    pub(super) fn spent_by_end(&self) -> bool {
        self.spec.ephemeral && self.state == State::Stopped && self.observed.started_at.is_some()
    }

    /// Lets the last output arrive and releases what a run holds.
    async fn put_away(&mut self, mut run: Run) {
        run.ended.cancel();
        let agent = run.agent.clone();
        let mut heard = Box::pin(timeout(LAST_WORDS_BOUND, agent.disconnected()));
        let mut over = false;
        while !over {
            let notice = tokio::select! {
                biased;
                notice = run.notices.recv() => notice,
                _ = &mut heard => {
                    over = true;
                    run.notices.try_recv().ok()
                }
            };
            match notice {
                Some(Notice::Event(AgentEvent::Main { status })) => self.main_status(status),
                Some(_) => {}
                None => over = true,
            }
        }
        if let Some(mut pump) = run.pump.take()
            && timeout(DRAIN_BOUND, &mut pump.0).await.is_err()
        {
            warn!(vm = %self.name, "the last output of main was not taken over");
        }
        self.removal = None;
        self.main_due = None;
        drop(run);
        self.forget_run().await;
    }

    /// Releases what a run holds, whether or not a machine was seen.
    pub(super) async fn forget_run(&mut self) {
        if self.release(Scope::Run).await.is_ok() {
            self.observed.machine = None;
        }
        self.observed.boot = None;
        if let Some(main) = &mut self.observed.main
            && main.state == MainState::Running
        {
            // Nobody saw it end; it ended with its machine, as if killed.
            main.state = MainState::Exited;
            main.exit_code = Some(128 + 9);
        }
    }

    async fn release(&self, scope: Scope) -> Result<(), ApiError> {
        resources::release(&self.deps.store, &*self.deps.host, &self.id, scope).await
    }

    /// Ends a running VM: asked, then killed. Leaves it stopped, or failed.
    pub(super) async fn stop(&mut self, bound: Duration) -> Result<(), ApiError> {
        let Some(mut run) = self.run.take() else {
            return Ok(());
        };
        self.announce(Event::Stop);
        let begun = Instant::now();
        let mut deadline = begun + bound;
        let agent = run.agent.clone();
        let mut asking = Box::pin(stop::ask(&agent, deadline));
        let mut asked = false;
        let mut why = None;
        let exit = loop {
            tokio::select! {
                biased;
                exit = &mut run.exit.0 => break Some(exit.unwrap_or(Exit::Unknown)),
                outcome = &mut asking, if !asked => match outcome {
                    Ok(()) => asked = true,
                    Err(reason) => {
                        if !reason.is_empty() {
                            why = Some(format!("the guest could not be asked to end, and was killed: {reason}"));
                        }
                        break None;
                    }
                },
                () = sleep_until(deadline) => {
                    why = Some(format!("the guest did not end within {:?}, and was killed", begun.elapsed()));
                    break None;
                }
                Some(notice) = run.notices.recv() => {
                    if let Notice::Event(AgentEvent::Main { status }) = notice {
                        self.main_status(status);
                    }
                }
                Some(command) = self.commands.recv() => {
                    let bound = match &command {
                        Command::Stop { timeout, .. } => Some(*timeout),
                        Command::Delete { .. } => Some(DELETE_BOUND),
                        Command::Start { .. }
                        | Command::MainWanted { .. }
                        | Command::MainStarted { .. } => None,
                    };
                    if let Some(bound) = bound {
                        deadline = deadline.min(Instant::now() + bound);
                    }
                    self.waiting.push_back(command);
                }
            }
        };
        drop(asking);
        let console = run.machine.console_tail(CONSOLE_LINES);
        let stopped = stop::finish(&run.machine, exit, why).await;
        self.put_away(run).await;
        match stopped {
            Stopped::Died { reason } => {
                self.fail(
                    ErrorKind::MachineDied,
                    format!(
                        "the machine of VM {} died while it was stopped: {reason}",
                        self.name
                    ),
                    &console,
                );
                self.observed.failure.clone().map_or(Ok(()), Err)
            }
            Stopped::ByGuest => {
                self.observed.note = None;
                self.announce(Event::Ended);
                Ok(())
            }
            Stopped::Killed { why } => {
                self.observed.note = why;
                self.announce(Event::Ended);
                Ok(())
            }
        }
    }

    /// Removes the VM, stopping it first. On failure it stays, failed.
    pub(super) async fn remove(&mut self, bound: Duration) -> Result<(), ApiError> {
        if self.run.is_some()
            && let Err(error) = self.stop(bound).await
        {
            debug!(vm = %self.name, %error, "deleted all the same");
        }
        if self.state != State::Deleting && !self.announce(Event::Delete) {
            return Err(self.wrong_state("delete"));
        }
        let released = match self.release(Scope::All).await {
            Ok(()) => self.deps.store.remove_vm(&self.id).map_err(ApiError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            let mut failure = error;
            failure.message = format!("VM {} is not all gone: {}", self.name, failure.message);
            failure
                .hint
                .get_or_insert_with(|| format!("banger vm delete {}", self.name));
            self.observed.failure = Some(failure.clone());
            self.announce(Event::DeleteFailed);
            return Err(failure);
        }
        self.deps.registry.remove(&self.id);
        self.view.send_modify(|view| {
            view.state = State::Deleting;
            view.agent = None;
            view.gone = true;
        });
        info!(vm = %self.name, id = %self.id, "deleted");
        Ok(())
    }

    /// Removes an ephemeral VM whose time is over: nothing on its disk is wanted any more.
    pub(super) async fn remove_quietly(&mut self) -> Flow {
        match self.remove(Duration::ZERO).await {
            Ok(()) => Flow::Gone,
            Err(error) => {
                warn!(vm = %self.name, %error, "an ephemeral VM was not removed");
                self.removal = None;
                self.main_due = None;
                Flow::Stay
            }
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

/// The exit code as a shell tells it; 255 where banger could not even try.
fn exit_code(status: &ExitStatus) -> i32 {
    status.shell_code().unwrap_or(255)
}
