//! A request's body that is read to its end whatever becomes of the request.
//!
//! An answer that is ready before the body was read, such as a refusal, would be lost otherwise:
//! closing a socket with unread bytes resets the connection, and a client that is still sending
//! learns of that before it looks for an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use http_body_util::BodyExt;

/// How long a client may go on sending what nobody wants.
const BOUND: Duration = Duration::from_secs(10);

pub struct Drained(Option<Incoming>);

impl Drained {
    pub fn new(body: Incoming) -> Drained {
        Drained(Some(body))
    }
}

impl Body for Drained {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        // None where the daemon's runtime is being torn down, and the connection with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(BOUND, async move {
                while let Some(Ok(_)) = body.frame().await {}
            }));
        }
    }
}
