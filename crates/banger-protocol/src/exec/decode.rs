//! Frames out of bytes that arrive in any pieces.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{Direction, Frame, FrameError, HEADER, check};

/// Incremental decoder. A frame that lies within one piece is cut out of it without a copy.
#[derive(Debug)]
pub struct Decoder {
    direction: Direction,
    /// The beginning of a frame whose rest has not come.
    partial: BytesMut,
    input: Bytes,
}

impl Decoder {
    pub fn new(direction: Direction) -> Self {
        Decoder {
            direction,
            partial: BytesMut::new(),
            input: Bytes::new(),
        }
    }

    /// Adds a piece. [`Self::next_frame`] is called until it has no more before the next.
    pub fn push(&mut self, piece: Bytes) {
        if self.input.is_empty() {
            self.input = piece;
        } else {
            self.partial.extend_from_slice(&self.input);
            self.partial.extend_from_slice(&piece);
            self.input = self.partial.split().freeze();
        }
    }

    /// The next whole frame. After an error nothing more can be made of the stream.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_empty() {
            let Some((head, rest)) = self.input.split_first_chunk::<HEADER>() else {
                self.set_aside();
                return Ok(None);
            };
            let (kind, length) = self.check(*head)?;
            if rest.len() < length {
                self.set_aside();
                return Ok(None);
            }
            self.input.advance(HEADER);
            return Frame::parse(kind, self.input.split_to(length)).map(Some);
        }
        if !self.fill(HEADER) {
            return Ok(None);
        }
        let Some(head) = self.partial.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = self.check(*head)?;
        if !self.fill(HEADER + length) {
            return Ok(None);
        }
        let mut frame = self.partial.split().freeze();
        frame.advance(HEADER);
        Frame::parse(kind, frame).map(Some)
    }

    /// Whether everything that was pushed has been returned.
    pub fn at_boundary(&self) -> bool {
        self.partial.is_empty() && self.input.is_empty()
    }

    fn check(&self, [kind, length @ ..]: [u8; HEADER]) -> Result<(super::Kind, usize), FrameError> {
        let length = u32::from_le_bytes(length);
        Ok((check(self.direction, kind, length)?, length as usize))
    }

    fn set_aside(&mut self) {
        self.partial.extend_from_slice(&self.input);
        self.input = Bytes::new();
    }

    /// Moves input to the partial frame until that has `length` bytes.
    fn fill(&mut self, length: usize) -> bool {
        let missing = length.saturating_sub(self.partial.len());
        let part = self.input.split_to(missing.min(self.input.len()));
        self.partial.extend_from_slice(&part);
        self.partial.len() >= length
    }
}
