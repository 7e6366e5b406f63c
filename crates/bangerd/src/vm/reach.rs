//! What reaches into a guest and changes nothing of its VM: health, execs, `main`, logs. It takes the
//! agent from the worker's view, and holds the worker up no longer than noting a `main` takes.

use std::time::Instant;

use banger_protocol::agent::{ExecList, ExecStarted, MainStart, MainStatus, OpenRequest};
use banger_protocol::api::exec::{Exec, ExecRequest};
use banger_protocol::api::vm::{InitChoice, LogQuery, VmHealth};
use banger_protocol::error::{ApiError, ErrorKind};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::spec::check_process;
use super::state::State;
use super::worker::Command;
use super::{Entry, Vms, logs, main_process, view};
use crate::agent::{Agent, GuestError};
use crate::exec::{GuestExec, JoinGuard, Rejoin};

impl Vms {
    /// The agent of a VM that runs.
    fn agent_of(&self, entry: &Entry) -> Result<Agent, ApiError> {
        let view = entry.view.borrow();
        let refuse = |kind, why: String, hint: String| {
            Err(ApiError::new(kind, format!("VM {} {why}", entry.name)).hint(hint))
        };
        match (&view.agent, view.state) {
            (_, State::Unresponsive) => refuse(
                ErrorKind::GuestUnreachable,
                "does not answer".to_owned(),
                format!("banger vm logs --console {}", entry.name),
            ),
            (Some(agent), State::Running) => Ok(agent.clone()),
            (_, state @ (State::Created | State::Stopped | State::Failed)) => refuse(
                ErrorKind::WrongState,
                format!("does not run: it is {}", state.name()),
                format!("banger vm start {}", entry.name),
            ),
            (_, state) => refuse(
                ErrorKind::WrongState,
                format!("is {}", state.name()),
                format!("banger vm wait {} tells when that is over", entry.name),
            ),
        }
    }

    /// Asks the guest's agent whether it is well.
    ///
    /// # Errors
    /// The VM does not exist. An agent that does not answer is an answer.
    pub async fn health(&self, vm: &str) -> Result<VmHealth, ApiError> {
        let entry = self.find(vm)?;
        let (state, agent) = {
            let view = entry.view.borrow();
            (view.state, view.agent.clone())
        };
        let asked = Instant::now();
        let answer = match agent {
            Some(agent) => agent.health().await.map_err(ApiError::from),
            None => match self.agent_of(&entry) {
                Ok(agent) => agent.health().await.map_err(ApiError::from),
                Err(error) => Err(error),
            },
        };
        Ok(match answer {
            Ok(health) => VmHealth {
                state: state.into(),
                healthy: true,
                latency_us: u64::try_from(asked.elapsed().as_micros()).ok(),
                uptime_s: Some(health.uptime_ms as f64 / 1000.0),
                error: None,
            },
            Err(error) => VmHealth {
                state: state.into(),
                healthy: false,
                latency_us: None,
                uptime_s: None,
                error: Some(error),
            },
        })
    }

    fn guest_exec(
        &self,
        entry: &Entry,
        agent: Agent,
        stream: banger_protocol::link::LinkStream,
        rejoin: Rejoin,
        terminal: bool,
        place: OwnedSemaphorePermit,
    ) -> GuestExec {
        let generation = entry
            .view
            .borrow()
            .observed
            .boot
            .as_ref()
            .map_or(0, |boot| boot.agent_generation);
        let main = rejoin == Rejoin::Main;
        GuestExec {
            generation,
            agent,
            stream,
            rejoin,
            // `main` is the VM's, an exec its client's.
            owned: !main,
            terminal,
            _place: place,
            _guard: main.then(|| JoinGuard::new(entry.joined.clone())),
        }
    }

    /// Runs a process in the guest.
    ///
    /// # Errors
    /// The request makes no sense, the VM does not run, or its agent does not answer.
    pub async fn exec(&self, vm: &str, request: ExecRequest) -> Result<GuestExec, ApiError> {
        let entry = self.find(vm)?;
        check_request(&request)?;
        let agent = self.agent_of(&entry)?;
        let terminal = request.terminal.is_some();
        let process = main_process::requested_process(&entry.spec, request);
        let place = agent.place()?;
        let (started, stream) = agent
            .ask::<ExecStarted>(&OpenRequest::Exec(process))
            .await?;
        let rejoin = Rejoin::Exec(started.exec);
        Ok(self.guest_exec(&entry, agent, stream, rejoin, terminal, place))
    }

    /// The processes of exec that the agent knows.
    ///
    /// # Errors
    /// The VM does not run, or its agent does not answer.
    pub async fn execs(&self, vm: &str) -> Result<Vec<Exec>, ApiError> {
        let entry = self.find(vm)?;
        let agent = self.agent_of(&entry)?;
        let (list, _) = agent.ask::<ExecList>(&OpenRequest::ExecList).await?;
        Ok(list.execs.into_iter().map(view::exec).collect())
    }

    /// Joins a process of exec again.
    ///
    /// # Errors
    /// There is no such process, the VM does not run, or its agent does not answer.
    pub async fn exec_attach(&self, vm: &str, exec: u64) -> Result<GuestExec, ApiError> {
        let entry = self.find(vm)?;
        let agent = self.agent_of(&entry)?;
        let place = agent.place()?;
        let (_, stream) = agent
            .ask::<ExecStarted>(&OpenRequest::ExecAttach { exec })
            .await?;
        // Whether it has a terminal is not known; not telling the end of stdin twice is the
        // lesser harm.
        Ok(self.guest_exec(&entry, agent, stream, Rejoin::Exec(exec), true, place))
    }

    /// Starts the VM's `main`, or joins it where it runs.
    ///
    /// # Errors
    /// The request makes no sense, the VM does not run, or its agent does not answer.
    pub async fn main(&self, vm: &str, request: ExecRequest) -> Result<GuestExec, ApiError> {
        let entry = self.find(vm)?;
        check_request(&request)?;
        let agent = self.agent_of(&entry)?;
        let place = agent.place()?;
        let terminal = request.terminal.is_some();
        let init = entry
            .view
            .borrow()
            .observed
            .init
            .unwrap_or(InitChoice::Agent);
        let mut request = request;
        // Nothing of its own to run leaves a login shell, which is what an empty command means.
        request.command =
            main_process::main_command(&entry.spec.image_config, init, &request.command)
                .unwrap_or_default();
        let (reply, noted) = oneshot::channel();
        let command = Command::MainWanted {
            command: request.command.clone(),
            reply,
        };
        // Where the worker is busy, the machine is on its way out, and the agent will say so.
        if entry.commands.send(command).await.is_ok() {
            let _ = noted.await;
        }
        let guard = JoinGuard::new(entry.joined.clone());
        let wanted = request.command.clone();
        let start = OpenRequest::MainStart(MainStart {
            process: main_process::requested_process(&entry.spec, request),
            attach: true,
        });
        let stream = match agent.ask::<MainStatus>(&start).await {
            Ok((status, stream)) => {
                let (reply, noted) = oneshot::channel();
                let command = Command::MainStarted {
                    command: wanted,
                    status,
                    reply,
                };
                if entry.commands.send(command).await.is_ok() {
                    let _ = noted.await;
                }
                stream
            }
            Err(GuestError::Refused(refusal))
                if refusal.kind == banger_protocol::agent::AgentErrorKind::WrongState =>
            {
                let attach = OpenRequest::MainAttach { replay: false };
                agent.ask::<MainStatus>(&attach).await?.1
            }
            Err(error) => return Err(error.into()),
        };
        let joined = self.guest_exec(&entry, agent, stream, Rejoin::Main, terminal, place);
        drop(guard);
        Ok(joined)
    }

    /// The output of `main`, or the serial console, as bytes.
    ///
    /// # Errors
    /// The VM does not exist, or its log cannot be read.
    pub async fn logs(
        &self,
        vm: &str,
        query: LogQuery,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>, ApiError> {
        let entry = self.find(vm)?;
        let directory = self.deps.directory.join(entry.id.as_str());
        logs::stream(&directory, query, entry.view.clone())
    }
}

fn check_request(request: &ExecRequest) -> Result<(), ApiError> {
    check_process(
        &request.command,
        &request.env,
        request.user.as_deref(),
        request.workdir.as_ref(),
    )
}
