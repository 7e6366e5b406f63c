//! The host's end of the link.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{Direction, Frame, MAX_FRAME, decode};
use super::hello::{Hello, HelloAck, Nonce, scan_ack};
use super::pump::{Pump, TURNS};
use super::session::Session;
use super::stream::LinkStream;
use super::{GENERATION, LinkError, WINDOW};

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    /// The machine was just launched, so nothing stale can be in the pipe. A reconnection first
    /// sends zeros enough to fill up a frame that its predecessor left half sent.
    pub fresh: bool,
    /// Hello is sent again after this long without its answer: the first may have gone to an
    /// agent that still was in the middle of something.
    pub resend: Duration,
    /// Generations spoken, both included.
    pub generations: (u16, u16),
}

impl HostOptions {
    pub fn fresh() -> Self {
        HostOptions {
            fresh: true,
            resend: Duration::from_millis(250),
            generations: (GENERATION, GENERATION),
        }
    }

    pub fn reconnect() -> Self {
        HostOptions {
            fresh: false,
            ..HostOptions::fresh()
        }
    }
}

/// An established link; clones share it. It ends when all clones and streams are dropped.
#[derive(Clone)]
pub struct Link {
    session: Arc<Session>,
    keep: Arc<Keep>,
}

/// Ends the session with its last owner.
pub(super) struct Keep(Arc<Session>);

impl Drop for Keep {
    fn drop(&mut self) {
        self.0.end(LinkError::Closed);
    }
}

impl Link {
    /// Shakes hands over `io`, however long that takes: bound it, or drop the future.
    pub async fn connect<T>(mut io: T, options: HostOptions) -> Result<(Link, HelloAck), LinkError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ack, input) = shake_hands(&mut io, options).await?;
        let session = Arc::new(Session::new(Direction::AgentToHost, ack.window));
        let pump = Pump::new(io, input);
        tokio::spawn(run(pump, Arc::clone(&session), ack.nonce));
        let link = Link {
            keep: Arc::new(Keep(Arc::clone(&session))),
            session,
        };
        Ok((link, ack))
    }

    /// Opens a stream. `request` is what the agent's end is given first, at most
    /// [`super::MAX_REQUEST`] bytes.
    pub async fn open(&self, request: &[u8]) -> Result<LinkStream, LinkError> {
        let (id, taken) = self.session.open(request)?;
        let keep = Some(Arc::clone(&self.keep));
        let mut stream = LinkStream::new(Arc::clone(&self.session), id, keep);
        if let Some(rest) = request.get(taken..)
            && !rest.is_empty()
        {
            stream.write_all(rest).await?;
        }
        Ok(stream)
    }

    /// Resolves when the link has ended, with the reason.
    pub async fn closed(&self) -> LinkError {
        poll_fn(|cx| self.session.poll_ended(cx)).await
    }

    /// Why it ended, if it has.
    pub fn end_reason(&self) -> Option<LinkError> {
        self.session.ended()
    }

    #[cfg(test)]
    pub(super) fn open_streams(&self) -> usize {
        self.session.open_streams()
    }

    /// Ends it now, for all clones and streams.
    pub fn close(&self) {
        self.session.end(LinkError::Closed);
    }
}

fn random_nonce() -> Result<Nonce, LinkError> {
    let mut nonce = Nonce::default();
    let mut filled = 0;
    while filled < nonce.len() {
        filled +=
            rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(std::io::Error::from)?;
    }
    Ok(nonce)
}

/// Returns the answer, and what was received behind it.
async fn shake_hands<T>(io: &mut T, options: HostOptions) -> Result<(HelloAck, BytesMut), LinkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (lowest, highest) = options.generations;
    let nonce = random_nonce()?;
    let mut encoded = Vec::new();
    Frame::Hello(Hello {
        nonce,
        lowest,
        highest,
        window: WINDOW,
    })
    .encode(&mut encoded);

    let mut output = BytesMut::new();
    if !options.fresh {
        output.resize(MAX_FRAME, 0);
    }
    output.extend_from_slice(&encoded);
    let mut input = BytesMut::with_capacity(MAX_FRAME);
    let (mut read, mut write) = tokio::io::split(io);
    let mut resend = tokio::time::interval(options.resend);
    resend.tick().await;
    loop {
        // Written and read at once: an old agent may be stuck writing to us.
        tokio::select! {
            biased;
            received = read.read_buf(&mut input) => {
                if received? == 0 {
                    return Err(LinkError::Eof);
                }
            }
            written = write.write_buf(&mut output), if !output.is_empty() => {
                written?;
            }
            _ = resend.tick(), if output.is_empty() => output.extend_from_slice(&encoded),
        }
        if let Some(ack) = scan_ack(&mut input, &nonce) {
            if !(lowest..=highest).contains(&ack.generation) {
                return Err(LinkError::Generation {
                    agent: ack.generation,
                    lowest,
                    highest,
                });
            }
            if !output.is_empty() {
                // Half a hello would be a framing error.
                write.write_all_buf(&mut output).await?;
            }
            return Ok((ack, input));
        }
        input.reserve(MAX_FRAME);
    }
}

async fn run<T>(mut pump: Pump<T>, session: Arc<Session>, nonce: Nonce)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let reason = poll_fn(|cx| poll_run(&mut pump, &session, &nonce, cx)).await;
    session.end(reason);
}

fn poll_run<T>(
    pump: &mut Pump<T>,
    session: &Session,
    nonce: &Nonce,
    cx: &mut Context<'_>,
) -> Poll<LinkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    for _ in 0..TURNS {
        if let Err(reason) = drain(&mut pump.input, session, nonce) {
            return Poll::Ready(reason);
        }
        // Looked at after the waker is in place, which writing does.
        let more = match pump.write_some(cx, Some(session)) {
            Ok(more) => more,
            Err(error) => return Poll::Ready(error.into()),
        };
        if let Some(reason) = session.ended() {
            return Poll::Ready(reason);
        }
        match pump.poll_fill(cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(LinkError::Eof),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
            Poll::Pending if more => {}
            Poll::Pending => return Poll::Pending,
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Gives the session every whole frame of `input`.
fn drain(input: &mut BytesMut, session: &Session, nonce: &Nonce) -> Result<(), LinkError> {
    while let Some(frame) = decode(session.peer(), input)? {
        match frame {
            // Hello was sent more than once, and each is answered.
            Frame::HelloAck(ack) if ack.nonce == *nonce => {}
            Frame::HelloAck(_) => {
                return Err(super::Violation::Direction(super::Kind::HelloAck).into());
            }
            Frame::Goodbye => return Err(LinkError::Goodbye),
            frame => {
                session.receive(frame)?;
            }
        }
    }
    Ok(())
}
