//! Moves bytes between the pipe and a session.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::frame::MAX_FRAME;
use super::session::Session;

/// Room for each read: a guest's port hands out 4 KiB buffers, many of them at once.
const READ_AHEAD: usize = 2 * MAX_FRAME;

/// Frames written before reading has its turn.
const FRAMES_PER_TURN: usize = 8;

/// Such turns before other tasks have theirs.
pub(super) const TURNS: usize = 8;

pub(super) struct Pump<T> {
    io: T,
    /// Bytes received, not yet decoded.
    pub(super) input: BytesMut,
    /// What is being written, and how much of it has been.
    output: Vec<u8>,
    written: usize,
    /// Goes out right after that, before anything of a session.
    urgent: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Pump<T> {
    pub(super) fn new(io: T, input: BytesMut) -> Self {
        Pump {
            io,
            input,
            output: Vec::new(),
            written: 0,
            urgent: Vec::new(),
        }
    }

    /// Sends these bytes next, on a frame's boundary.
    pub(super) fn send_urgent(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.urgent);
    }

    /// Forgets what is not written yet, even half a frame: the peer is scanning.
    pub(super) fn drop_output(&mut self) {
        self.output.clear();
        self.written = 0;
        self.urgent.clear();
    }

    /// Writes until the pipe is full or nothing is left, which wakes this task again later; true
    /// where it stopped only to give reading its turn.
    pub(super) fn write_some(
        &mut self,
        cx: &mut Context<'_>,
        session: Option<&Session>,
    ) -> io::Result<bool> {
        for _ in 0..FRAMES_PER_TURN {
            while self.written < self.output.len() {
                let left = &self.output[self.written..];
                match Pin::new(&mut self.io).poll_write(cx, left)? {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(count) => self.written += count,
                }
            }
            self.written = 0;
            self.output.clear();
            if !self.urgent.is_empty() {
                self.output.append(&mut self.urgent);
            } else if let Some(session) = session
                && let Some(frame) = session.next_output(cx, &mut self.output)
            {
                self.output = frame;
            }
            if self.output.is_empty() {
                // A pipe that buffers gets rid of it by itself, or wakes us.
                if let Poll::Ready(result) = Pin::new(&mut self.io).poll_flush(cx) {
                    result?;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads once into [`Self::input`]; 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_AHEAD);
        let read = pin!(self.io.read_buf(&mut self.input));
        read.poll(cx)
    }
}
