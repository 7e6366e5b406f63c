//! One stream joined to a process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::exec::{Decoder, Direction, Frame};
use banger_protocol::link::{LinkStream, StreamReader, StreamWriter, is_link_lost};
use tokio::sync::Notify;

use super::Process;
use super::state::{ClientFault, Outgoing};

/// After the exit status was sent, the client has this long to say that it has it.
const FAREWELL: Duration = Duration::from_secs(30);

/// How a join ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The client has the exit status.
    Done,
    /// The process goes on, or its status waits.
    Detached,
    HungUp,
}

/// Joins `stream` until either side is done with it. `replay` sends what the log has first.
pub async fn attach(process: &Arc<Process>, stream: LinkStream, replay: bool) -> Left {
    let ready = Arc::new(Notify::new());
    let join = {
        let mut state = process.state();
        let join = state.attach(replay, Arc::clone(&ready));
        let pid = process.pid.cast_unsigned();
        state.send_first(
            join,
            &Frame::Started {
                exec: process.id,
                pid,
            },
        );
        join
    };
    process.wake_outputs();
    let (mut reader, mut writer) = stream.into_split();
    let left = serve(process, join, &ready, &mut reader, &mut writer).await;
    match left {
        Left::HungUp => process.hang_up(),
        Left::Done | Left::Detached => {
            process.state().detach(Some(join));
            process.wake_outputs();
        }
    }
    left
}

async fn serve(
    process: &Arc<Process>,
    join: u64,
    ready: &Notify,
    reader: &mut StreamReader,
    writer: &mut StreamWriter,
) -> Left {
    let read = read_frames(process, join, reader);
    tokio::pin!(read);
    let mut reading = true;
    {
        let write = write_frames(process, join, ready, writer);
        tokio::pin!(write);
        loop {
            tokio::select! {
                end = &mut read, if reading => match end {
                    End::Fin => reading = false,
                    End::HangUp => return Left::HungUp,
                    End::Lost => return Left::Detached,
                },
                sent = &mut write => match sent {
                    Ok(true) => break,
                    Ok(false) | Err(_) => return Left::Detached,
                },
            }
        }
    }
    if reading {
        match tokio::time::timeout(FAREWELL, read).await {
            Ok(End::Lost) => return Left::Detached,
            Ok(End::Fin | End::HangUp) | Err(_) => {}
        }
    }
    Left::Done
}

/// Sends until the last frame, which makes it true, or until another stream is joined.
async fn write_frames(
    process: &Process,
    join: u64,
    ready: &Notify,
    writer: &mut StreamWriter,
) -> io::Result<bool> {
    loop {
        let next = process.state().next_outgoing(join);
        match next {
            Outgoing::Frame(frame) => writer.write_frame(frame).await?,
            Outgoing::Wait => ready.notified().await,
            Outgoing::Finished => {
                writer.finish()?;
                return Ok(true);
            }
            Outgoing::Replaced => return Ok(false),
        }
    }
}

enum End {
    /// The client will say no more.
    Fin,
    HangUp,
    /// The link is gone, or the client has left the stream, or broke the rules.
    Lost,
}

async fn read_frames(process: &Arc<Process>, join: u64, reader: &mut StreamReader) -> End {
    let mut decoder = Decoder::new(Direction::ClientToGuest);
    loop {
        match reader.read_chunk().await {
            Ok(Some(chunk)) => decoder.push(chunk),
            Ok(None) => return End::Fin,
            // Once all was said, a client need not end its direction in style.
            Err(error) if !is_link_lost(&error) && process.state().is_finished(join) => {
                return End::Fin;
            }
            Err(_) => return End::Lost,
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Hangup)) => return End::HangUp,
                Ok(Some(frame)) => {
                    if act(process, join, frame).is_err() {
                        return End::Lost;
                    }
                }
                Ok(None) => break,
                Err(_) => return End::Lost,
            }
        }
    }
}

fn act(process: &Arc<Process>, join: u64, frame: Frame) -> Result<(), ClientFault> {
    match frame {
        Frame::Stdin(bytes) => {
            process.state().stdin(bytes)?;
            process.stdin_ready.notify_one();
        }
        Frame::StdinEof => {
            process.state().stdin_eof();
            process.stdin_ready.notify_one();
        }
        Frame::Resize { rows, columns } => process.resize(rows, columns),
        Frame::Signal(number) => process.signal(number),
        Frame::Credit { channel, bytes } => {
            process.state().credit(join, channel, bytes)?;
            process.room[super::index(channel)].notify_one();
        }
        // The guest's own, which the decoder refuses, and the one handled before.
        _ => {}
    }
    Ok(())
}
