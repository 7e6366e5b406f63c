//! The kept output of `main`, in the order it was written. Pure.

use std::collections::VecDeque;

use banger_protocol::exec::Channel;

/// Most bytes that are kept.
pub const KEPT: u64 = 1024 * 1024;

/// Pieces are joined up to this size, and dropped whole.
const PIECE: usize = 16 * 1024;

struct Piece {
    channel: Channel,
    /// Place of its first byte in all output.
    start: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
pub struct Log {
    pieces: VecDeque<Piece>,
    end: u64,
}

/// The next part of the log for a reader.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub channel: Channel,
    /// Bytes between the reader's place and this, dropped before it came for them.
    pub lost: u64,
    pub bytes: Vec<u8>,
    /// The reader's place behind it.
    pub next: u64,
}

impl Log {
    /// Bytes of all output so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Place of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |piece| piece.start)
    }

    pub fn append(&mut self, channel: Channel, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        match self.pieces.back_mut() {
            Some(last) if last.channel == channel && last.bytes.len() + data.len() <= PIECE => {
                last.bytes.extend_from_slice(data);
            }
            _ => self.pieces.push_back(Piece {
                channel,
                start: self.end,
                bytes: data.to_vec(),
            }),
        }
        self.end += data.len() as u64;
        while self.end - self.start() > KEPT && self.pieces.len() > 1 {
            self.pieces.pop_front();
        }
    }

    /// Up to `most` bytes of one channel from `place` on; `None` at the end.
    pub fn read(&self, place: u64, most: usize) -> Option<Part> {
        let index = self
            .pieces
            .partition_point(|piece| piece.start + piece.bytes.len() as u64 <= place);
        let piece = self.pieces.get(index)?;
        let skip = place.saturating_sub(piece.start) as usize;
        let end = piece.bytes.len().min(skip.saturating_add(most));
        Some(Part {
            channel: piece.channel,
            lost: piece.start.saturating_sub(place),
            bytes: piece.bytes[skip..end].to_vec(),
            next: piece.start + end as u64,
        })
    }

    /// Where the last `lines` lines begin. A last line without its end counts as one.
    pub fn tail(&self, lines: u32) -> u64 {
        if lines == 0 {
            return self.end;
        }
        let mut left = lines;
        for piece in self.pieces.iter().rev() {
            for (at, byte) in piece.bytes.iter().enumerate().rev() {
                let place = piece.start + at as u64 + 1;
                if *byte == b'\n' && place != self.end {
                    left -= 1;
                    if left == 0 {
                        return place;
                    }
                }
            }
        }
        self.start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tails_are_counted_in_lines() {
        let mut log = Log::default();
        assert_eq!(log.tail(3), 0);
        log.append(Channel::Stdout, b"one\ntw");
        log.append(Channel::Stderr, b"o\nthree\n");
        let tail = |log: &Log, lines| {
            let mut place = log.tail(lines);
            let mut text = Vec::new();
            while let Some(part) = log.read(place, 3) {
                text.extend_from_slice(&part.bytes);
                place = part.next;
            }
            String::from_utf8(text).unwrap()
        };
        assert_eq!(tail(&log, 0), "");
        assert_eq!(tail(&log, 1), "three\n");
        assert_eq!(tail(&log, 2), "two\nthree\n");
        assert_eq!(tail(&log, 9), "one\ntwo\nthree\n");
        log.append(Channel::Stdout, b"four");
        assert_eq!(tail(&log, 1), "four");
    }

    proptest! {
        /// A reader sees all that was written, in order, but for what it is told is lost.
        #[test]
        fn readers_see_everything_or_are_told(
            writes in proptest::collection::vec((any::<bool>(), 1usize..60_000), 1..80),
            most in 1usize..70_000,
            from in 0u64..3_000_000,
        ) {
            let mut log = Log::default();
            let mut written = Vec::new();
            for (error, length) in writes {
                let channel = if error { Channel::Stderr } else { Channel::Stdout };
                let data: Vec<u8> = (0..length).map(|at| (written.len() + at) as u8 % 251).collect();
                log.append(channel, &data);
                written.extend(data);
            }
            prop_assert_eq!(log.end(), written.len() as u64);
            prop_assert!(log.end() - log.start() <= KEPT.max(60_000));
            let mut place = from.min(log.end());
            while let Some(part) = log.read(place, most) {
                let start = place + part.lost;
                prop_assert_eq!(part.next, start + part.bytes.len() as u64);
                prop_assert_eq!(&part.bytes[..], &written[start as usize..part.next as usize]);
                prop_assert!(part.lost == 0 || place < log.start());
                place = part.next;
            }
            prop_assert_eq!(place, log.end());
        }
    }
}
