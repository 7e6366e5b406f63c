//! Writes what the process reads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::io::unix::AsyncFd;

use super::{Process, pty};

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
        let (bytes, length) = match next(&process).await {
            Next::Bytes(bytes) => {
                let length = bytes.len();
                (bytes, length)
            }
            Next::Eof => (Bytes::from_static(&[pty::END_OF_FILE]), 0),
            Next::Over => return,
        };
        // A terminal without a reader takes nothing; its process is about to end.
        let _ = write(&process, fd, bytes).await;
        process.state().stdin_consumed(length);
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
