//! Output that waits for a reader. Pure.

use std::collections::VecDeque;

use banger_protocol::link::FrameBuf;

/// Bytes of one channel that could not be sent yet, and how many were dropped before them.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: VecDeque<u8>,
    lost: u64,
}

/// Most that is kept of each channel while nobody is joined.
pub const KEPT: usize = 1024 * 1024;

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn push(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    /// Drops the oldest beyond `most`.
    pub fn trim(&mut self, most: usize) {
        let over = self.bytes.len().saturating_sub(most);
        self.bytes.drain(..over);
        self.lost += over as u64;
    }

    /// Counts bytes that were given away and may not have arrived.
    pub fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Moves up to `most` bytes to the end of `frame`.
    pub fn take(&mut self, most: usize, frame: &mut FrameBuf) -> usize {
        let count = most.min(self.bytes.len()).min(frame.room());
        let (first, second) = self.bytes.as_slices();
        let from_first = count.min(first.len());
        frame.append(&first[..from_first]);
        frame.append(&second[..count - from_first]);
        self.bytes.drain(..count);
        if self.bytes.is_empty() {
            // A megabyte is not kept for the next time.
            self.bytes.shrink_to(4096);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_dropped_and_counted() {
        let mut backlog = Backlog::default();
        backlog.push(b"abcdef");
        backlog.trim(4);
        backlog.push(b"gh");
        backlog.trim(4);
        assert_eq!(backlog.take_lost(), 4);
        assert_eq!(backlog.take_lost(), 0);
        let mut frame = FrameBuf::with_capacity(8);
        assert_eq!(backlog.take(3, &mut frame), 3);
        assert_eq!(backlog.take(8, &mut frame), 1);
        assert_eq!(frame.payload(), b"efgh");
        assert!(backlog.is_empty());
    }
}
