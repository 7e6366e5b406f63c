//! Takes the output of `main` over from the guest into the host's log.
//!
//! The agent numbers the bytes, so after a lost link, or after a restart of bangerd, the next
//! wanted one is asked for. What the agent had to drop meanwhile is skipped.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_protocol::agent::{MainLog, MainStatus, OpenRequest};
use banger_protocol::exec::{Decoder, Direction, Frame};
use banger_protocol::link::LinkStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::main_log::MainLogWriter;
use crate::agent::{Agent, GuestError};

/// After the log could not be written: the disk may be full for a while.
const RETRY: Duration = Duration::from_secs(5);

enum Pumped {
    /// `main` has ended, and all of its output is in the log.
    All,
    LinkLost,
    NotWritten(io::Error),
    /// The guest broke the rules.
    Nonsense(String),
}

/// Runs until `main` has ended, or the machine has (`ended`) and what came of it is written.
pub(super) async fn pump(
    agent: Agent,
    directory: PathBuf,
    run: u64,
    bound: u64,
    ended: CancellationToken,
) {
    loop {
        let pause = match once(&agent, &directory, run, bound, &ended).await {
            Pumped::All => return,
            Pumped::LinkLost => Duration::from_millis(20),
            Pumped::NotWritten(error) => {
                warn!(directory = %directory.display(), %error, "the output of main is not kept for now");
                RETRY
            }
            Pumped::Nonsense(reason) => {
                debug!(directory = %directory.display(), %reason, "the output of main makes no sense");
                RETRY
            }
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn once(
    agent: &Agent,
    directory: &std::path::Path,
    run: u64,
    bound: u64,
    ended: &CancellationToken,
) -> Pumped {
    let mut writer = match MainLogWriter::open(directory, run, bound) {
        Ok(writer) => writer,
        Err(error) => return Pumped::NotWritten(error),
    };
    let request = OpenRequest::MainLog(MainLog {
        follow: true,
        tail: None,
        from: Some(writer.next_byte()),
    });
    let asked = tokio::select! {
        asked = agent.ask::<MainStatus>(&request) => asked,
        () = ended.cancelled() => return Pumped::LinkLost,
    };
    match asked {
        Ok((_, stream)) => copy(stream, &mut writer).await,
        Err(GuestError::Silent { .. }) => Pumped::LinkLost,
        Err(GuestError::Gone) => Pumped::All,
        Err(error) => Pumped::Nonsense(error.to_string()),
    }
}

async fn copy(mut stream: LinkStream, writer: &mut MainLogWriter) -> Pumped {
    let mut decoder = Decoder::new(Direction::GuestToClient);
    loop {
        let piece = match stream.read_chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Pumped::All,
            // The link, or the agent's patience: the next byte is asked for again.
            Err(_) => return Pumped::LinkLost,
        };
        decoder.push(piece);
        loop {
            let written = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::Stdout(bytes) | Frame::Stderr(bytes))) => writer.append(&bytes),
                Ok(Some(Frame::Lost { bytes, .. })) => writer.skip(bytes),
                Ok(Some(_)) => Ok(()),
                Err(error) => return Pumped::Nonsense(error.to_string()),
            };
            if let Err(error) = written {
                return Pumped::NotWritten(error);
            }
        }
    }
}
