//! A frame's payload with room for the header before it, so that sending copies nothing.

use super::frame::{END, HEADER, Kind, MAX_PAYLOAD, header};

/// Payload of one data frame, at most [`MAX_PAYLOAD`] bytes.
pub struct FrameBuf(Vec<u8>);

impl FrameBuf {
    /// An empty payload with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + capacity + 1);
        bytes.extend_from_slice(&[0; HEADER]);
        FrameBuf(bytes)
    }

    /// A copy of `payload`, cut at [`MAX_PAYLOAD`].
    pub fn copy_of(payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
        let mut buf = FrameBuf::with_capacity(payload.len());
        buf.0.extend_from_slice(payload);
        buf
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may still be added.
    pub fn room(&self) -> usize {
        MAX_PAYLOAD.saturating_sub(self.len())
    }

    pub fn payload(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// Adds as much of `bytes` as there is room for, and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.0.extend_from_slice(&bytes[..count]);
        count
    }

    /// Keeps the first `length` bytes, and the capacity.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(HEADER + length);
    }

    /// Lets `fill` append to the payload, for reads into spare capacity; what it appends beyond
    /// [`MAX_PAYLOAD`] is cut off, what it takes away from before is not given back.
    pub fn append_with<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let result = fill(&mut self.0);
        let most = HEADER + MAX_PAYLOAD;
        if self.0.len() < HEADER {
            self.0.resize(HEADER, 0);
        }
        self.0.truncate(most);
        result
    }

    /// The whole frame. Nothing is added after this.
    pub(super) fn seal(mut self, kind: Kind, stream: u32) -> Vec<u8> {
        let head = header(kind, stream, self.len());
        self.0[..HEADER].copy_from_slice(&head);
        self.0.push(END);
        self.0
    }
}
