//! Handles of a stream: what the programs read from and write to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::host::Keep;
use super::payload::FrameBuf;
use super::session::Session;

/// One stream of a link, both directions.
///
/// Dropping it gives the stream up: the other end gets an error, unless this side's direction was
/// shut down before, in which case it gets all of it first.
pub struct LinkStream {
    reader: StreamReader,
    writer: StreamWriter,
}

/// The receiving half. Dropped alone, it throws away what still comes.
pub struct StreamReader {
    end: Arc<End>,
    /// Taken from the session, not yet from us.
    current: Bytes,
}

/// The sending half. Dropped without a shutdown, it gives up the stream.
pub struct StreamWriter {
    end: Arc<End>,
}

struct End {
    session: Arc<Session>,
    id: u32,
    /// A host's link lives as long as its streams.
    _keep: Option<Arc<Keep>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.session.detach(self.id);
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.end.session.drop_reader(self.end.id);
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.end.session.drop_writer(self.end.id);
    }
}

impl LinkStream {
    pub(super) fn new(session: Arc<Session>, id: u32, keep: Option<Arc<Keep>>) -> Self {
        let end = Arc::new(End {
            session,
            id,
            _keep: keep,
        });
        LinkStream {
            reader: StreamReader {
                end: Arc::clone(&end),
                current: Bytes::new(),
            },
            writer: StreamWriter { end },
        }
    }

    pub fn into_split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }

    pub fn split(&mut self) -> (&mut StreamReader, &mut StreamWriter) {
        (&mut self.reader, &mut self.writer)
    }

    /// See [`StreamReader::read_chunk`].
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.reader.read_chunk().await
    }

    /// See [`StreamReader::read_line`].
    pub async fn read_line(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        self.reader.read_line(limit).await
    }

    /// See [`StreamWriter::write_frame`].
    pub async fn write_frame(&mut self, frame: FrameBuf) -> io::Result<()> {
        self.writer.write_frame(frame).await
    }
}

impl StreamReader {
    /// The next bytes as they came, without a copy; `None` at the end.
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.current.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.current))));
        }
        self.end.session.poll_read(self.end.id, cx)
    }

    /// Bytes up to a line feed, without it; what follows stays to be read. `None` at the end; a
    /// line longer than `limit`, or cut by the end, is an error.
    pub async fn read_line(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        let mut line = BytesMut::new();
        while let Some(mut chunk) = self.read_chunk().await? {
            let end = memchr::memchr(b'\n', &chunk);
            let part = chunk.split_to(end.unwrap_or(chunk.len()));
            if line.len() + part.len() > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line longer than {limit} bytes"),
                ));
            }
            line.extend_from_slice(&part);
            if end.is_some() {
                chunk.advance(1);
                self.current = chunk;
                return Ok(Some(line.freeze()));
            }
        }
        if line.is_empty() {
            return Ok(None);
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

impl StreamWriter {
    /// Sends a payload as one frame without a copy, once there is credit for all of it. Dropping
    /// the future sends either all or nothing of it.
    pub async fn write_frame(&mut self, frame: FrameBuf) -> io::Result<()> {
        let mut frame = Some(frame);
        std::future::poll_fn(|cx| self.poll_write_frame(cx, &mut frame)).await
    }

    /// Takes the frame out of `frame` when it is queued.
    pub fn poll_write_frame(
        &mut self,
        cx: &mut Context<'_>,
        frame: &mut Option<FrameBuf>,
    ) -> Poll<io::Result<()>> {
        self.end.session.poll_write_frame(self.end.id, cx, frame)
    }

    /// Ends this direction, after all that was written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.end.session.finish(self.end.id)
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut chunk) = ready!(self.poll_chunk(cx))? {
            let part = chunk.split_to(chunk.len().min(buf.remaining()));
            buf.put_slice(&part);
            self.current = chunk;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.end.session.poll_write(self.end.id, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end.session.poll_flush(self.end.id, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
