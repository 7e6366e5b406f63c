//! Request bodies: nothing, some bytes, or what a thread produces while it is sent.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use banger_protocol::error::ApiError;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// Bytes per chunk; large enough that neither thread hops nor HTTP framing count.
const CHUNK: usize = 256 << 10;
/// Chunks in flight between the producing thread and the socket.
const CHUNKS: usize = 4;

/// A request body.
pub struct Body(UnsyncBoxBody<Bytes, io::Error>);

impl Body {
    pub fn empty() -> Self {
        Body(Empty::new().map_err(never).boxed_unsync())
    }

    pub fn full(bytes: Bytes) -> Self {
        Body(Full::new(bytes).map_err(never).boxed_unsync())
    }
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.0.size_hint()
    }
}

/// What became of a producing thread.
#[derive(Clone, Default)]
pub struct Upload(Arc<Mutex<Option<ApiError>>>);

impl Upload {
    /// Why the producer gave up; it explains the broken request better than the other end can.
    pub fn failure(&self) -> Option<ApiError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that `produce` writes in a thread of its own while it is sent. An error of `produce`
/// breaks the request off, so that the other end never takes a part for the whole.
pub fn upload<F>(produce: F) -> (Body, Upload)
where
    F: FnOnce(&mut dyn Write) -> Result<(), ApiError> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let upload = Upload::default();
    let outcome = upload.clone();
    std::thread::spawn(move || {
        let mut writer = ChunkWriter {
            sender,
            buffer: Vec::with_capacity(CHUNK),
            gone: false,
        };
        let result = produce(&mut writer);
        if writer.gone {
            // The other end has its own reason, which the response tells.
            return;
        }
        match result {
            Ok(()) => {
                let _ = writer.flush();
            }
            Err(error) => {
                *outcome.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                let broken = io::Error::other("the source could not be read");
                let _ = writer.sender.blocking_send(Err(broken));
            }
        }
    });
    (Body(Chunks(receiver).boxed_unsync()), upload)
}

struct ChunkWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    /// The request ended before we did.
    gone: bool,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| {
            self.gone = true;
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::error::ErrorKind;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_whole() {
        let (body, upload) = upload(|out| {
            for n in 0..200_000u32 {
                out.write_all(&n.to_le_bytes())
                    .map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
            }
            Ok(())
        });
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 800_000);
        assert!(
            bytes
                .chunks(4)
                .enumerate()
                .all(|(n, four)| four == (n as u32).to_le_bytes())
        );
        assert!(upload.failure().is_none());
    }

    #[tokio::test]
    async fn a_failed_source_breaks_the_request_off() {
        let (body, upload) = upload(|out| {
            let _ = out.write_all(b"half");
            Err(ApiError::new(ErrorKind::NotFound, "no such file"))
        });
        assert!(body.collect().await.is_err());
        assert_eq!(upload.failure().unwrap().kind, ErrorKind::NotFound);
    }
}
