//! The base file as it grows: appended in large writes, never read back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::error::BaseError;
use crate::erofs::BLOCK_BYTES;

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 1 << 20;
/// A run of zeros at least this long is left out of the file instead of written.
const LONG_RUN: u64 = 64 * 1024;

/// What a base is written into: empty at first, addressed by offset.
pub trait BaseFile {
    /// Writes all of `bytes` at `offset`. Bytes never written read as zero.
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes a range that was written read as zero, and gives its space back where that is
    /// possible.
    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

impl<W: BaseFile + ?Sized> BaseFile for &mut W {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (**self).store(bytes, offset)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).clear(offset, length)
    }
}

impl BaseFile for &File {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&**self, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
        // A file system without holes: the bytes must still not depend on it.
        let zeros = vec![0; BUFFER_BYTES];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(BUFFER_BYTES as u64);
            let piece = zeros.get(..count as usize).unwrap_or(&zeros);
            self.write_all_at(piece, offset + done)?;
            done += count;
        }
        Ok(())
    }
}

impl BaseFile for File {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (&*self).store(bytes, offset)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (&*self).clear(offset, length)
    }
}

impl BaseFile for Vec<u8> {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        if let Some(target) = self.get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let range = offset as usize..(offset + length) as usize;
        if let Some(target) = self.get_mut(range) {
            target.fill(0);
        }
        Ok(())
    }
}

/// Appends to a [`BaseFile`].
pub(crate) struct Output<W> {
    file: W,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    start: u64,
    /// Size that the file must not exceed.
    max: u64,
    /// Bytes that are going to be appended some day: metadata of what is known by now.
    reserved: u64,
}

impl<W: BaseFile> Output<W> {
    pub fn new(file: W, start: u64, max: u64) -> Self {
        // Block numbers have 32 bits.
        let addressable = u64::from(u32::MAX) * BLOCK_BYTES;
        Output {
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            start,
            max: max.min(addressable),
            reserved: 0,
        }
    }

    pub fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// The block at the position, which must be at the start of one.
    pub fn block(&self) -> u32 {
        debug_assert!(self.position().is_multiple_of(BLOCK_BYTES));
        // `max` keeps the position within 2^32 blocks.
        (self.position() / BLOCK_BYTES) as u32
    }

    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), BaseError> {
        self.check(bytes.len() as u64)?;
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    pub fn append_zeros(&mut self, count: u64) -> Result<(), BaseError> {
        self.check(count)?;
        if count >= LONG_RUN {
            self.flush()?;
            self.start += count;
            return Ok(());
        }
        let mut left = count as usize;
        while left > 0 {
            let now = left.min(BUFFER_BYTES - self.buffer.len());
            self.buffer.resize(self.buffer.len() + now, 0);
            left -= now;
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Zeros up to the next multiple of `unit`, a power of two.
    pub fn align(&mut self, unit: u64) -> Result<(), BaseError> {
        let position = self.position();
        self.append_zeros(position.next_multiple_of(unit) - position)
    }

    /// Counts `bytes` against the size limit before they are appended.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), BaseError> {
        self.check(bytes)?;
        self.reserved += bytes;
        Ok(())
    }

    /// What was reserved is appended now.
    pub fn release_reserved(&mut self) {
        self.reserved = 0;
    }

    pub fn flush(&mut self) -> Result<(), BaseError> {
        self.file
            .store(&self.buffer, self.start)
            .map_err(BaseError::Write)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes at an offset below the position, outside of what is buffered.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), BaseError> {
        self.file.store(bytes, offset).map_err(BaseError::Write)
    }

    /// Clears blocks that nothing refers to any more.
    pub fn clear_blocks(
        &mut self,
        blocks: &mut Vec<std::ops::Range<u32>>,
    ) -> Result<(), BaseError> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.flush()?;
        blocks.sort_unstable_by_key(|range| range.start);
        let mut clear = |range: std::ops::Range<u32>| {
            let offset = u64::from(range.start) * BLOCK_BYTES;
            let length = range.len() as u64 * BLOCK_BYTES;
            self.file.clear(offset, length).map_err(BaseError::Write)
        };
        let mut pending = 0..0;
        for range in blocks.drain(..) {
            if range.start == pending.end {
                pending.end = range.end;
            } else {
                if !pending.is_empty() {
                    clear(pending)?;
                }
                pending = range;
            }
        }
        clear(pending)
    }

    #[cfg(test)]
    pub fn file_mut(&mut self) -> &mut W {
        &mut self.file
    }

    fn check(&self, more: u64) -> Result<(), BaseError> {
        let within = self
            .position()
            .checked_add(self.reserved)
            .and_then(|size| size.checked_add(more))
            .is_some_and(|size| size <= self.max);
        if within {
            Ok(())
        } else {
            Err(BaseError::Limit {
                what: "bytes",
                max: self.max,
            })
        }
    }
}
