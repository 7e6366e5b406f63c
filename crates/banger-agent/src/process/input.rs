//! Writes what the process reads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::unix::AsyncFd;

use super::{Process, pty};

/// Between two ends of stdin typed into a terminal: at first, and at most.
const END_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What comes next for stdin.
enum Next {
    Bytes(Bytes),
    Eof,
    /// The process has ended.
    Over,
}

async fn next(process: &Process) -> Next {
    loop {
        {
            let mut state = process.state();
            if state.exited.is_some() {
                return Next::Over;
            }
            if let Some(bytes) = state.stdin.queue.pop_front() {
                return Next::Bytes(bytes);
            }
            if std::mem::take(&mut state.stdin.eof_pending) {
                return Next::Eof;
            }
        }
        process.stdin_ready.notified().await;
    }
}

pub(super) async fn run_pipe(process: Arc<Process>, fd: AsyncFd<OwnedFd>) {
    let mut fd = Some(fd);
    loop {
        match next(&process).await {
            Next::Bytes(bytes) => {
                let length = bytes.len();
                if let Some(open) = &fd
                    && write(&process, open, bytes).await.is_err()
                {
                    // The process has closed it; the client goes on until it notices.
                    fd = None;
                }
                process.state().stdin_consumed(length);
            }
            Next::Eof => fd = None,
            Next::Over => return,
        }
    }
}

pub(super) async fn run_terminal(process: Arc<Process>) {
    let Some(fd) = &process.terminal else {
        return;
    };
    loop {
        match next(&process).await {
            Next::Bytes(bytes) => {
                let length = bytes.len();
                // A terminal without a reader takes nothing; its process is about to end.
                let _ = write(&process, fd, bytes).await;
                process.state().stdin_consumed(length);
            }
            Next::Eof => return end_terminal(&process, fd).await,
            Next::Over => return,
        }
    }
}

/// Types the end of stdin until the process has ended. Once is not enough: it ends one read, a
/// shell that changes the terminal's mode meanwhile (as readline does at its start) reads a NUL
/// instead, and what was left by one process is to be read by the next. A program that reads keys
/// rather than lines gets it twice at most: to it that is a key, and may mean anything.
async fn end_terminal(process: &Process, fd: &AsyncFd<OwnedFd>) {
    let mut pause = END_PAUSE.0;
    let mut keys = 0;
    while process.state().exited.is_none() {
        let end = match pty::end_of_file(fd.get_ref()) {
            Some(end) => {
                keys = 0;
                Some(end)
            }
            None => {
                keys += 1;
                (keys <= 2).then_some(pty::END_OF_FILE)
            }
        };
        if let Some(end) = end {
            let _ = write(process, fd, Bytes::copy_from_slice(&[end])).await;
        }
        let again = tokio::time::Instant::now() + pause;
        while process.state().exited.is_none() {
            tokio::select! {
                () = tokio::time::sleep_until(again) => break,
                () = process.stdin_ready.notified() => {}
            }
        }
        pause = (pause * 2).min(END_PAUSE.1);
    }
}

async fn write(process: &Process, fd: &AsyncFd<OwnedFd>, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let ready = tokio::select! {
            ready = fd.writable() => ready,
            // Also when the process ends while it does not read.
            () = process.stdin_ready.notified() => {
                if process.state().exited.is_some() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                continue;
            }
        };
        match ready?.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), &bytes)?)) {
            Ok(Ok(count)) => bytes.advance(count),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
