//! A running program whose standard output is read while it works.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::ChildStdout;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::CommandError;
use super::group::Group;
use super::tail::Tail;

pub(super) struct Spec {
    pub(super) command: String,
    pub(super) accepted: Vec<i32>,
    pub(super) time_limit: Option<Duration>,
}

/// Standard output of a running program.
///
/// Reading to the end proves nothing: only [`Stream::finish`] tells whether the program
/// succeeded. Dropping it kills the program's process group.
pub struct Stream {
    spec: Spec,
    group: Group,
    stdout: Option<ChildStdout>,
    tail: JoinHandle<Tail>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new(
        spec: Spec,
        group: Group,
        stdout: Option<ChildStdout>,
        tail: JoinHandle<Tail>,
    ) -> Self {
        let deadline = spec
            .time_limit
            .map(|limit| Box::pin(sleep_until(Instant::now() + limit)));
        Self {
            spec,
            group,
            stdout,
            tail,
            deadline,
        }
    }

    /// Closes our end of the pipe, waits for the program and checks its exit status. A program
    /// that still had something to say fails with a broken pipe, so read to the end first.
    pub async fn finish(mut self) -> Result<(), CommandError> {
        self.stdout = None;
        let deadline = self.deadline.take();
        let work = async {
            let tail = (&mut self.tail).await.unwrap_or_default();
            self.group
                .wait(&self.spec.command, &self.spec.accepted, &tail)
                .await
                .map(|_code| ())
        };
        match deadline {
            None => work.await,
            Some(deadline) => {
                tokio::select! {
                    biased;
                    result = work => return result,
                    () = deadline => {}
                }
                self.group.kill_and_reap().await;
                Err(CommandError::TimedOut {
                    command: self.spec.command.clone(),
                    after: self.spec.time_limit.unwrap_or_default(),
                })
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(stdout) = &mut self.stdout else {
            return Poll::Ready(Ok(()));
        };
        if let Poll::Ready(result) = Pin::new(stdout).poll_read(cx, buf) {
            return Poll::Ready(result);
        }
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(cx));
        // A `Sleep` must not be polled again after it has fired: `finish` would panic.
        self.deadline = Some(Box::pin(sleep_until(Instant::now())));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("`{}` took too long", self.spec.command),
        )))
    }
}
