//! Puts one file's content into the base: blocks, a tail for the inode, and no blocks for zeros.

use std::mem;
use std::ops::Range;

use super::error::BaseError;
use super::output::{BaseFile, Output};
use super::tree::{Arena, Chunks, FileData, Run};
use crate::erofs::{self, BLOCK_BYTES};
use crate::tar::Piece;

/// Bytes of tails kept in memory until the metadata is written. Fixed, because two imports of one
/// image must agree on which files have one.
const TAIL_BUDGET: u64 = 32 << 20;
/// Smallest chunk that can be left out as a hole.
const SMALLEST_CHUNK: u64 = 16 * BLOCK_BYTES;
/// Most chunks of one file; larger files get larger chunks. Their map takes 4 bytes each.
const MAX_CHUNKS: u64 = 1 << 18;

/// Takes the pieces of one file in order.
pub(super) struct Body {
    size: u64,
    position: u64,
    chunk: u64,
    state: State,
    /// Stored chunks.
    runs: Vec<Run>,
    holes: bool,
    /// Where a tail begins that may go behind the inode; `size` if none may.
    tail_from: u64,
    tail: Vec<u8>,
}

enum State {
    /// So many zeros since the chunk's start, none of them written.
    Zeros(u64),
    /// The chunk is being stored.
    Stored,
    /// The rest of the file is its tail.
    Tail,
}

impl Body {
    /// `xattr_bytes` share the inode's block with the tail.
    pub fn new(size: u64, xattr_bytes: usize, tails: &Arena) -> Body {
        let tail = size % BLOCK_BYTES;
        let fits = erofs::fits_behind_inode(xattr_bytes, tail as usize)
            && tails.bytes() + tail <= TAIL_BUDGET;
        Body {
            size,
            position: 0,
            // A file below the smallest chunk is stored as it is.
            chunk: if size >= SMALLEST_CHUNK {
                chunk_bytes(size)
            } else {
                u64::MAX
            },
            state: State::Zeros(0),
            runs: Vec::new(),
            holes: false,
            tail_from: if fits { size - tail } else { size },
            tail: Vec::new(),
        }
    }

    pub fn piece<W: BaseFile>(
        &mut self,
        piece: Piece<'_>,
        output: &mut Output<W>,
    ) -> Result<(), BaseError> {
        match piece {
            Piece::Data(bytes) => self.data(bytes, output),
            Piece::Hole(count) => self.hole(count, output),
        }
    }

    fn data<W: BaseFile>(
        &mut self,
        mut bytes: &[u8],
        output: &mut Output<W>,
    ) -> Result<(), BaseError> {
        while !bytes.is_empty() {
            self.begin_tail_if_due();
            let step = self.step(bytes.len() as u64) as usize;
            let (now, later) = bytes.split_at(step);
            match self.state {
                State::Tail => {
                    self.tail.extend_from_slice(now);
                    self.position += step as u64;
                }
                State::Stored => {
                    output.append(now)?;
                    self.advance(step as u64);
                }
                State::Zeros(zeros) => {
                    let first = if self.may_leave_out() {
                        now.iter().position(|byte| *byte != 0)
                    } else {
                        Some(0)
                    };
                    match first {
                        None => {
                            self.state = State::Zeros(zeros + step as u64);
                            self.advance(step as u64);
                        }
                        Some(first) => {
                            // The rest of the step comes again, into a stored chunk.
                            self.begin_stored(output);
                            output.append_zeros(zeros + first as u64)?;
                            self.position += first as u64;
                            bytes = bytes.get(first..).unwrap_or_default();
                            continue;
                        }
                    }
                }
            }
            bytes = later;
        }
        Ok(())
    }

    fn hole<W: BaseFile>(
        &mut self,
        mut count: u64,
        output: &mut Output<W>,
    ) -> Result<(), BaseError> {
        while count > 0 {
            self.begin_tail_if_due();
            let mut step = self.step(count);
            match self.state {
                State::Tail => {
                    self.tail.resize(self.tail.len() + step as usize, 0);
                    self.position += step;
                }
                State::Stored => {
                    output.append_zeros(step)?;
                    self.advance(step);
                }
                State::Zeros(zeros) if self.may_leave_out() => {
                    // Whole chunks at once: a hole may be millions of them long.
                    if zeros == 0 && count > self.chunk {
                        step = count - count % self.chunk;
                        self.holes = true;
                        self.position += step;
                    } else {
                        self.state = State::Zeros(zeros + step);
                        self.advance(step);
                    }
                }
                State::Zeros(_) => {
                    self.begin_stored(output);
                    continue;
                }
            }
            count -= step;
        }
        Ok(())
    }

    /// Where the content is, after the last piece.
    pub fn finish<W: BaseFile>(
        mut self,
        output: &mut Output<W>,
        tails: &mut Arena,
    ) -> Result<FileData, BaseError> {
        let block = self.runs.first().map_or(0, |run| run.block);
        match self.state {
            State::Tail => {
                let tail = tails.add(&self.tail)?;
                return Ok(FileData::Inline { block, tail });
            }
            State::Stored => output.align(BLOCK_BYTES)?,
            State::Zeros(zeros) => self.holes |= zeros > 0,
        }
        if !self.holes {
            return Ok(FileData::Flat { block });
        }
        let mut bits = chunk_bits(self.chunk);
        if self.runs.is_empty() {
            // Nothing but a hole: as few map entries as can describe it.
            while bits < erofs::MAX_CHUNK_BITS && (BLOCK_BYTES << bits) < self.size {
                bits += 1;
            }
        }
        let runs = mem::take(&mut self.runs);
        Ok(FileData::Chunked(Box::new(Chunks { bits, runs })))
    }

    fn may_leave_out(&self) -> bool {
        self.chunk != u64::MAX
    }

    /// How far to go before something changes: the chunk's end, or the tail's start.
    fn step(&self, available: u64) -> u64 {
        let mut step = available.min(self.chunk - self.position % self.chunk);
        if self.position < self.tail_from {
            step = step.min(self.tail_from - self.position);
        }
        step
    }

    fn begin_tail_if_due(&mut self) {
        let whole_so_far = !self.holes && matches!(self.state, State::Stored | State::Zeros(0));
        if self.position == self.tail_from && whole_so_far {
            self.state = State::Tail;
        }
    }

    fn begin_stored<W: BaseFile>(&mut self, output: &Output<W>) {
        let block = output.block();
        // `chunk_bytes` keeps the number within 18 bits.
        let number = (self.position / self.chunk) as u32;
        let per_chunk = self.chunk / BLOCK_BYTES;
        match self.runs.last_mut() {
            Some(run)
                if run.first + run.count == number
                    && u64::from(run.block) + u64::from(run.count) * per_chunk
                        == u64::from(block) =>
            {
                run.count += 1;
            }
            _ => self.runs.push(Run {
                first: number,
                count: 1,
                block,
            }),
        }
        self.state = State::Stored;
    }

    fn advance(&mut self, count: u64) {
        self.position += count;
        if self.position.is_multiple_of(self.chunk) {
            if let State::Zeros(zeros) = self.state {
                self.holes |= zeros > 0;
            }
            self.state = State::Zeros(0);
        }
    }
}

/// Adds the ranges of blocks that a file's content occupies.
pub(super) fn blocks(size: u64, data: &FileData, ranges: &mut Vec<Range<u32>>) {
    let mut add = |block: u32, count: u64| {
        // The whole base is addressed by 32 bits, so the end is too.
        let end = u64::from(block) + count;
        if let Ok(end) = u32::try_from(end)
            && count > 0
        {
            ranges.push(block..end);
        }
    };
    match data {
        FileData::Flat { block } => add(*block, size.div_ceil(BLOCK_BYTES)),
        FileData::Inline { block, .. } => add(*block, size / BLOCK_BYTES),
        FileData::Chunked(chunks) => {
            let chunk = BLOCK_BYTES << chunks.bits;
            for run in &chunks.runs {
                let start = u64::from(run.first) * chunk;
                let end = (start + u64::from(run.count) * chunk).min(size);
                add(run.block, (end - start).div_ceil(BLOCK_BYTES));
            }
        }
    }
}

/// Bytes of the map that a file of this size needs at most.
pub(super) fn map_bytes(size: u64) -> u64 {
    if size < SMALLEST_CHUNK {
        0
    } else {
        size.div_ceil(chunk_bytes(size)) * 4
    }
}

fn chunk_bytes(size: u64) -> u64 {
    let wanted = size.div_ceil(MAX_CHUNKS).max(SMALLEST_CHUNK);
    // Sizes are bounded far below the point where this could overflow.
    wanted.checked_next_power_of_two().unwrap_or(1 << 62)
}

fn chunk_bits(chunk: u64) -> u8 {
    (chunk / BLOCK_BYTES).trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stores `pieces` (runs of one byte; `None` is a hole) and reads them back from the blocks.
    fn round_trip(pieces: &[(Option<u8>, u32)], split: usize) -> (FileData, usize) {
        let mut expected = Vec::new();
        for (byte, count) in pieces {
            expected.resize(expected.len() + *count as usize, byte.unwrap_or(0));
        }
        let mut output = Output::new(Vec::new(), BLOCK_BYTES, u64::MAX);
        let mut tails = Arena::default();
        let mut body = Body::new(expected.len() as u64, 0, &tails);
        for (byte, count) in pieces {
            match byte {
                None => body
                    .piece(Piece::Hole(u64::from(*count)), &mut output)
                    .unwrap(),
                Some(byte) => {
                    for part in vec![*byte; *count as usize].chunks(split) {
                        body.piece(Piece::Data(part), &mut output).unwrap();
                    }
                }
            }
        }
        let data = body.finish(&mut output, &mut tails).unwrap();
        assert!(output.position().is_multiple_of(BLOCK_BYTES));
        let mut file = Vec::new();
        output.flush().unwrap();
        let stored = (output.position() - BLOCK_BYTES) as usize;
        std::mem::swap(&mut file, output.file_mut());
        file.resize(stored + BLOCK_BYTES as usize, 0);
        let at = |block: u32, length: usize| {
            let start = block as usize * BLOCK_BYTES as usize;
            file[start..start + length].to_vec()
        };
        let found = match &data {
            FileData::Flat { block } => at(*block, expected.len()),
            FileData::Inline { block, tail } => {
                let mut found = at(*block, expected.len() - tail.len());
                found.extend_from_slice(tails.get(*tail));
                found
            }
            FileData::Chunked(chunks) => {
                let chunk = (BLOCK_BYTES as usize) << chunks.bits;
                let mut found = vec![0; expected.len()];
                for run in &chunks.runs {
                    let start = run.first as usize * chunk;
                    let end = (start + run.count as usize * chunk).min(expected.len());
                    found[start..end].copy_from_slice(&at(run.block, end - start));
                }
                found
            }
        };
        assert!(found == expected, "{pieces:?}");
        (data, stored)
    }

    #[test]
    fn layouts() {
        const K: u32 = 1024;
        let inline = |data: &FileData| matches!(data, FileData::Inline { .. });
        let flat = |data: &FileData| matches!(data, FileData::Flat { .. });
        let chunked = |data: &FileData| matches!(data, FileData::Chunked(_));
        type Case<'a> = (&'a [(Option<u8>, u32)], fn(&FileData) -> bool, usize);
        let cases: [Case<'_>; 11] = [
            (&[], flat, 0),
            (&[(Some(1), 1)], inline, 0),
            (&[(Some(1), 4 * K)], flat, 4096),
            (&[(Some(1), 4 * K + 7)], inline, 4096),
            // The tail does not fit beside the inode.
            (&[(Some(1), 4 * K - 1)], flat, 4096),
            // Zeros of a small file are stored.
            (&[(Some(0), 8 * K)], flat, 8192),
            (&[(Some(0), 64 * K)], chunked, 0),
            (&[(None, 10_000 * K + 3)], chunked, 0),
            (&[(Some(1), 64 * K), (None, 1)], inline, 65536),
            (
                &[(Some(1), 64 * K), (Some(0), 64 * K), (Some(2), 5)],
                chunked,
                65536 + 4096,
            ),
            (
                &[(None, 640 * K), (Some(2), 5), (None, 640 * K)],
                chunked,
                65536,
            ),
        ];
        for (pieces, layout, stored) in cases {
            for split in [usize::MAX, 4096, 1000] {
                let (data, found) = round_trip(pieces, split);
                assert!(layout(&data), "{pieces:?}: {data:?}");
                assert_eq!(found, stored, "{pieces:?}");
            }
        }
    }

    #[test]
    fn the_largest_files_have_bounded_maps() {
        for (size, bytes) in [
            (0, 0),
            (65_535, 0),
            (65_536, 4),
            (1 << 34, 1 << 20),
            (1 << 50, 1 << 20),
        ] {
            assert_eq!(map_bytes(size), bytes, "{size}");
        }
        let mut output = Output::new(Vec::new(), BLOCK_BYTES, u64::MAX);
        let mut tails = Arena::default();
        let mut body = Body::new(1 << 40, 0, &tails);
        body.piece(Piece::Hole(1 << 40), &mut output).unwrap();
        match body.finish(&mut output, &mut tails).unwrap() {
            FileData::Chunked(chunks) => assert_eq!((chunks.bits, chunks.runs.len()), (28, 0)),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_the_content_comes_back(
            pieces in prop::collection::vec((prop::option::of(0..2_u8), prop_oneof![0..5000_u32, 60_000..140_000_u32]), 0..6),
            split in prop_oneof![Just(usize::MAX), 500..70_000_usize],
        ) {
            round_trip(&pieces, split);
        }
    }
}
