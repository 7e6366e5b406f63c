//! The agent's end of the link.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::frame::{Direction, Frame, decode};
use super::hello::{Hello, HelloAck, Nonce, scan_hello};
use super::pump::{Pump, TURNS};
use super::session::{Opened, Session};
use super::stream::LinkStream;
use super::{GENERATION, LinkError, Violation, WINDOW};

/// What the agent tells of itself in the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Random, made once per boot.
    pub boot_id: [u8; 16],
}

/// A stream that the host opened.
pub struct Incoming {
    pub stream: LinkStream,
    total: usize,
    part: Bytes,
}

impl Incoming {
    /// The whole request; waits for the rest of a long one.
    pub async fn request(&mut self) -> io::Result<Bytes> {
        let mut request = BytesMut::from(&*std::mem::take(&mut self.part));
        if request.len() < self.total {
            let start = request.len();
            request.resize(self.total, 0);
            self.stream.read_exact(&mut request[start..]).await?;
        }
        Ok(request.freeze())
    }
}

enum Phase {
    Scanning,
    Speaking(Arc<Session>, Nonce),
}

struct Server<T, H> {
    pump: Pump<T>,
    phase: Phase,
    identity: Identity,
    handler: H,
}

/// Serves sessions over `io`, one after the other, until it ends. `handler` is called for each
/// stream; it must not block, and normally spawns a task. A new hello, or a framing error, ends
/// the session before: all its streams fail with [`super::is_link_lost`].
pub async fn serve<T, H>(io: T, identity: Identity, handler: H) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Incoming),
{
    let mut server = Server {
        pump: Pump::new(io, BytesMut::new()),
        phase: Phase::Scanning,
        identity,
        handler,
    };
    poll_fn(|cx| server.poll_run(cx)).await
}

impl<T, H> Drop for Server<T, H> {
    fn drop(&mut self) {
        if let Phase::Speaking(session, _) = &self.phase {
            session.end(LinkError::Eof);
        }
    }
}

impl<T, H> Server<T, H>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Incoming),
{
    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            self.drain();
            let session = match &self.phase {
                Phase::Scanning => None,
                Phase::Speaking(session, _) => Some(&**session),
            };
            let more = self.pump.write_some(cx, session)?;
            match self.pump.poll_fill(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                Poll::Pending if more => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Acts on all of the input that makes whole frames.
    fn drain(&mut self) {
        loop {
            match &self.phase {
                Phase::Scanning => match scan_hello(&mut self.pump.input) {
                    Some(hello) => self.start(&hello),
                    None => return,
                },
                Phase::Speaking(session, nonce) => {
                    match decode(Direction::HostToAgent, &mut self.pump.input) {
                        Ok(None) => return,
                        // The host asked again before our answer reached it.
                        Ok(Some(Frame::Hello(hello))) if hello.nonce == *nonce => {
                            self.acknowledge(&hello);
                        }
                        Ok(Some(Frame::Hello(hello))) => {
                            session.end(LinkError::Replaced);
                            self.start(&hello);
                        }
                        Ok(Some(frame)) => match session.receive(frame) {
                            Ok(None) => {}
                            Ok(Some(opened)) => {
                                let session = Arc::clone(session);
                                self.announce(session, opened);
                            }
                            Err(violation) => self.lose(violation),
                        },
                        Err(violation) => self.lose(violation),
                    }
                }
            }
        }
    }

    fn start(&mut self, hello: &Hello) {
        // The host drops all that comes before the answer.
        self.pump.drop_output();
        let session = Session::new(Direction::HostToAgent, hello.window);
        self.phase = Phase::Speaking(Arc::new(session), hello.nonce);
        self.acknowledge(hello);
    }

    fn acknowledge(&mut self, hello: &Hello) {
        // The only one so far; a host that does not speak it says so, and goes.
        let generation = GENERATION;
        let ack = Frame::HelloAck(HelloAck {
            nonce: hello.nonce,
            generation,
            window: WINDOW,
            boot_id: self.identity.boot_id,
        });
        self.pump.send_urgent(|out| ack.encode(out));
    }

    fn announce(&mut self, session: Arc<Session>, opened: Opened) {
        let stream = LinkStream::new(session, opened.id, None);
        (self.handler)(Incoming {
            stream,
            total: opened.total as usize,
            part: opened.part,
        });
    }

    /// The host broke the framing, or we are reading from the middle of something.
    fn lose(&mut self, violation: Violation) {
        if let Phase::Speaking(session, _) = &self.phase {
            session.end(LinkError::Violation(violation));
        }
        self.phase = Phase::Scanning;
        self.pump.send_urgent(|out| Frame::Goodbye.encode(out));
    }
}
