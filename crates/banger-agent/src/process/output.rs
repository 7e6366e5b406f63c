//! Reads what the process writes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use banger_protocol::exec::{Channel, HEADER, MAX_PAYLOAD};
use banger_protocol::link::FrameBuf;
use tokio::io::unix::AsyncFd;

use super::{Process, index};

/// Reads below this are copied out, and the large buffer is used again.
const SMALL: usize = 8 * 1024;

pub(super) async fn run_pipe(process: Arc<Process>, channel: Channel, fd: AsyncFd<OwnedFd>) {
    let ended = read_all(&process, channel, &fd).await;
    process.state().output_ended();
    process.logged.notify_waiters();
    if !ended {
        discard(&fd).await;
    }
}

pub(super) async fn run_terminal(process: Arc<Process>) {
    let Some(fd) = &process.terminal else {
        return;
    };
    let ended = read_all(&process, Channel::Stdout, fd).await;
    process.state().output_ended();
    process.logged.notify_waiters();
    if !ended {
        discard(fd).await;
    }
}

/// Returns whether the output has ended; if not, only the process has.
async fn read_all(process: &Process, channel: Channel, fd: &AsyncFd<OwnedFd>) -> bool {
    let mut spare = None;
    loop {
        let room = wait_for_room(process, channel).await;
        let mut frame = match spare.take() {
            Some(frame) => frame,
            None => {
                let mut frame = FrameBuf::with_capacity(HEADER + MAX_PAYLOAD);
                frame.append(&[0; HEADER]);
                frame
            }
        };
        match read(process, channel, fd, &mut frame, room).await {
            Read::Some => {}
            Read::End => return true,
            Read::ProcessEnded => return false,
        }
        if frame.len() - HEADER < SMALL {
            process
                .state()
                .output(channel, FrameBuf::copy_of(frame.payload()));
            frame.truncate(HEADER);
            spare = Some(frame);
        } else {
            process.state().output(channel, frame);
        }
        process.logged.notify_waiters();
    }
}

enum Read {
    Some,
    End,
    /// It was reaped, and everything it had written was read before. Others may still have the
    /// output open: what they write is no longer its output.
    ProcessEnded,
}

async fn read(
    process: &Process,
    channel: Channel,
    fd: &AsyncFd<OwnedFd>,
    frame: &mut FrameBuf,
    room: usize,
) -> Read {
    loop {
        let over = process.state().exited.is_some();
        let result = if over {
            read_now(fd.get_ref(), frame, room)
        } else {
            tokio::select! {
                ready = fd.readable() => {
                    let Ok(mut ready) = ready else {
                        return Read::End;
                    };
                    match ready.try_io(|fd| read_now(fd.get_ref(), frame, room)) {
                        Ok(result) => result,
                        Err(_would_block) => continue,
                    }
                }
                () = process.room[index(channel)].notified() => continue,
            }
        };
        return match result {
            Ok(0) => Read::End,
            Ok(_) => Read::Some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::ProcessEnded,
            // A terminal that nobody has open any more.
            Err(_) => Read::End,
        };
    }
}

/// Appends at most `room` bytes.
fn read_now(fd: &OwnedFd, frame: &mut FrameBuf, room: usize) -> io::Result<usize> {
    frame.append_with(|bytes| {
        let spare = bytes.spare_capacity_mut();
        let most = spare.len().min(room);
        let (read, _) = rustix::io::read(fd, &mut spare[..most])?;
        let count = read.len();
        let length = bytes.len() + count;
        // SAFETY: `read` says that so many bytes behind the old length were written.
        unsafe { bytes.set_len(length) };
        Ok(count)
    })
}

async fn wait_for_room(process: &Process, channel: Channel) -> usize {
    loop {
        let room = process.state().room(channel);
        if room > 0 {
            return room;
        }
        process.room[index(channel)].notified().await;
    }
}

/// Takes away what others still write, so that they are neither stopped nor killed.
async fn discard(fd: &AsyncFd<OwnedFd>) {
    let mut sink = [0; 4096];
    while let Ok(mut ready) = fd.readable().await {
        match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut sink[..])?)) {
            Ok(Ok(0)) => return,
            Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}
