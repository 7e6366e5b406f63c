//! Answers requests: one stream, one request, one reply, and what follows it.

use std::io;
use std::sync::Arc;

use banger_protocol::agent::{
    AgentError, AgentErrorKind, AgentEvent, AgentReply, ExecList, ExecStarted, MainLog, MainState,
    MainStatus, Nothing, OpenRequest,
};
use banger_protocol::exec::{Channel, ExitStatus, Frame, HEADER, Kind, MAX_PAYLOAD, header};
use banger_protocol::link::{FrameBuf, Incoming, LinkStream};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::broadcast::error::RecvError;

use crate::agent::Agent;
use crate::process::{self, Process};

/// Serves one stream to its end. Errors are the stream's: its other end sees them too.
pub async fn serve_stream(agent: Arc<Agent>, mut incoming: Incoming) {
    let Ok(request) = incoming.request().await else {
        return;
    };
    let request = serde_json::from_slice(&request).map_err(|error| {
        let message = format!("the request cannot be understood: {error}");
        AgentError::new(AgentErrorKind::InvalidRequest, message)
    });
    let mut stream = incoming.stream;
    let result = match request {
        Ok(request) => serve_request(&agent, request, stream).await,
        Err(error) => refuse(&mut stream, error).await,
    };
    // The host went away, which is its right.
    drop(result);
}

async fn serve_request(
    agent: &Arc<Agent>,
    request: OpenRequest,
    mut stream: LinkStream,
) -> io::Result<()> {
    match request {
        OpenRequest::Boot(config) => answer(&mut stream, agent.boot(&config)).await,
        OpenRequest::Health => answer(&mut stream, Ok(agent.health())).await,
        OpenRequest::Exec(spec) => match agent.exec(&spec) {
            Err(error) => refuse(&mut stream, error).await,
            Ok((exec, started)) => {
                reply(&mut stream, &AgentReply::Ok(ExecStarted { exec })).await?;
                match started {
                    Ok(process) => join_exec(agent, &process, stream).await,
                    Err(failure) => {
                        let exit = Frame::Exit(ExitStatus::Failed(failure));
                        stream.write_all(&exit.to_bytes()).await?;
                        stream.shutdown().await
                    }
                }
            }
        },
        OpenRequest::ExecAttach { exec } => match agent.execs.get(exec) {
            Some(process) => {
                reply(&mut stream, &AgentReply::Ok(ExecStarted { exec })).await?;
                join_exec(agent, &process, stream).await
            }
            None => {
                let message = format!("there is no process {exec} of exec");
                refuse(
                    &mut stream,
                    AgentError::new(AgentErrorKind::NotFound, message),
                )
                .await
            }
        },
        OpenRequest::ExecList => {
            let execs = agent.execs.list();
            answer(&mut stream, Ok(ExecList { execs })).await
        }
        OpenRequest::MainStart(start) => {
            let started = agent.ready().and_then(|()| {
                agent
                    .main
                    .start(&start.process, &agent.accounts(), &agent.reaper)
            });
            match started {
                Err(error) => refuse(&mut stream, error).await,
                Ok(()) if start.attach => join_main(agent, stream, false).await,
                Ok(()) => answer(&mut stream, Ok(agent.main.status())).await,
            }
        }
        OpenRequest::MainAttach { replay } => join_main(agent, stream, replay).await,
        OpenRequest::MainStatus => answer(&mut stream, Ok(agent.main.status())).await,
        OpenRequest::MainLog(log) => send_log(agent, stream, &log).await,
        OpenRequest::Time { realtime_ns } => {
            let result = crate::clock::set_realtime(realtime_ns).map(|()| Nothing {});
            answer(
                &mut stream,
                result.map_err(|error| system("set the clock", &error)),
            )
            .await
        }
        OpenRequest::Shutdown(shutdown) => {
            agent.go_down(shutdown);
            answer(&mut stream, Ok(Nothing {})).await
        }
        OpenRequest::Events => send_events(agent, stream).await,
        OpenRequest::Stats => answer(&mut stream, Ok(crate::stats::read())).await,
    }
}

fn system(deed: &str, error: &io::Error) -> AgentError {
    AgentError::new(AgentErrorKind::System, format!("cannot {deed}: {error}"))
}

async fn reply<T: Serialize>(stream: &mut LinkStream, reply: &AgentReply<T>) -> io::Result<()> {
    stream.write_all(&reply.to_line()).await
}

/// A reply that nothing follows.
async fn answer<T: Serialize>(
    stream: &mut LinkStream,
    result: Result<T, AgentError>,
) -> io::Result<()> {
    let line = match result {
        Ok(value) => AgentReply::Ok(value),
        Err(error) => AgentReply::Error(error),
    };
    reply(stream, &line).await?;
    stream.shutdown().await
}

async fn refuse(stream: &mut LinkStream, error: AgentError) -> io::Result<()> {
    answer::<Nothing>(stream, Err(error)).await
}

async fn join_exec(
    agent: &Arc<Agent>,
    process: &Arc<Process>,
    stream: LinkStream,
) -> io::Result<()> {
    match process::attach(process, stream, false).await {
        process::Left::Done | process::Left::HungUp => agent.execs.forget(process.id),
        process::Left::Detached => {}
    }
    Ok(())
}

async fn join_main(agent: &Arc<Agent>, mut stream: LinkStream, replay: bool) -> io::Result<()> {
    match agent.main.process() {
        Ok(process) => {
            reply(&mut stream, &AgentReply::Ok(agent.main.status())).await?;
            process::attach(&process, stream, replay).await;
            Ok(())
        }
        Err(MainState::Exited { status }) => {
            reply(&mut stream, &AgentReply::Ok(agent.main.status())).await?;
            stream.write_all(&Frame::Exit(status).to_bytes()).await?;
            stream.shutdown().await
        }
        Err(_) => {
            let message = "main was not started in this boot";
            refuse(
                &mut stream,
                AgentError::new(AgentErrorKind::WrongState, message),
            )
            .await
        }
    }
}

async fn send_log(agent: &Arc<Agent>, mut stream: LinkStream, log: &MainLog) -> io::Result<()> {
    reply(&mut stream, &AgentReply::Ok(agent.main.status())).await?;
    if let Ok(process) = agent.main.process() {
        let mut place = match (log.from, log.tail) {
            (Some(from), _) => from.min(process.log_end()),
            (None, Some(lines)) => process.log_tail(lines),
            (None, None) => 0,
        };
        let (reader, writer) = stream.split();
        loop {
            // A reader that goes away does so while we wait for output, too.
            let part = tokio::select! {
                part = process.log_part(place, MAX_PAYLOAD, log.follow) => part,
                chunk = reader.read_chunk(), if log.follow => match chunk {
                    Ok(Some(_)) => continue,
                    // Half closed: it only says that it has nothing to say.
                    Ok(None) => process.log_part(place, MAX_PAYLOAD, log.follow).await,
                    Err(error) => return Err(error),
                },
            };
            let Some(part) = part else {
                break;
            };
            if part.lost > 0 {
                let lost = Frame::Lost {
                    channel: part.channel,
                    bytes: part.lost,
                };
                writer.write_all(&lost.to_bytes()).await?;
            }
            let kind = match part.channel {
                Channel::Stdout => Kind::Stdout,
                Channel::Stderr => Kind::Stderr,
            };
            let mut frame = FrameBuf::with_capacity(HEADER + part.bytes.len());
            frame.append(&header(kind, part.bytes.len()));
            frame.append(&part.bytes);
            writer.write_frame(frame).await?;
            place = part.next;
        }
    }
    stream.shutdown().await
}

async fn send_events(agent: &Arc<Agent>, mut stream: LinkStream) -> io::Result<()> {
    let mut events = agent.events.subscribe();
    let status = |status: MainStatus| AgentEvent::Main { status };
    reply(&mut stream, &AgentReply::Ok(Nothing {})).await?;
    send_event(&mut stream, &status(agent.main.status())).await?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            chunk = stream.read_chunk() => match chunk {
                Ok(Some(_)) => continue,
                Ok(None) => events.recv().await,
                Err(error) => return Err(error),
            },
        };
        match event {
            Ok(event) => send_event(&mut stream, &event).await?,
            // What it missed was about main, whose state says it all.
            Err(RecvError::Lagged(_)) => {
                send_event(&mut stream, &status(agent.main.status())).await?;
            }
            Err(RecvError::Closed) => return stream.shutdown().await,
        }
    }
}

async fn send_event(stream: &mut LinkStream, event: &AgentEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
