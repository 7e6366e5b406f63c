//! Walks an archive: headers in, entries and pieces of content out.

use std::mem;
use std::vec;

use super::error::TarError;
use super::header::{Header, until_nul};
use super::pax::{self, Extensions};
use super::sparse::{Encoding, LineParser, Map, Segment};
use super::{BLOCK, Entry, Kind, MAX_EXTENSION_BYTES, Time, number};
use crate::decompress::{Stream, StreamError};

/// Why reading stopped: the archive is bad, or its bytes stopped coming.
#[derive(Debug)]
pub(crate) enum ReadError {
    Tar(TarError),
    Stream(StreamError),
}

impl From<TarError> for ReadError {
    fn from(error: TarError) -> Self {
        ReadError::Tar(error)
    }
}

impl From<StreamError> for ReadError {
    fn from(error: StreamError) -> Self {
        ReadError::Stream(error)
    }
}

/// Consecutive content of a regular file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// This many zeros, which the archive does not hold.
    Hole(u64),
    Data(&'a [u8]),
}

pub(crate) struct Reader<'s, S> {
    stream: &'s mut S,
    offset: u64,
    /// Bytes lent by [`Reader::piece`] which are not consumed yet.
    lent: usize,
    content: Content,
    block: [u8; BLOCK],
    /// An archive may end without a marker where something else tells that it is whole.
    end_marker_required: bool,
}

/// What is left of the current entry's content.
#[derive(Default)]
struct Content {
    segments: vec::IntoIter<Segment>,
    current: Option<Segment>,
    position: u64,
    size: u64,
    padding: u64,
}

impl<'s, S: Stream> Reader<'s, S> {
    pub fn new(stream: &'s mut S, end_marker_required: bool) -> Self {
        Reader {
            stream,
            offset: 0,
            lent: 0,
            content: Content::default(),
            block: [0; BLOCK],
            end_marker_required,
        }
    }

    /// Bytes of the archive read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, behind whatever content of the former one was not read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        while self.piece()?.is_some() {}
        let padding = mem::take(&mut self.content).padding;
        match self.skip(padding, "a file's padding") {
            // `umoci insert` does not pad the last file of its layers, and other readers take them.
            Err(ReadError::Tar(TarError::Truncated { .. })) if !self.end_marker_required => {
                return Ok(None);
            }
            result => result?,
        }
        let mut extensions = Extensions::default();
        let (mut long_name, mut long_target) = (None, None);
        let mut first = true;
        loop {
            if !self.header(first)? {
                return Ok(None);
            }
            first = false;
            let header = Header(&self.block);
            header.check_sum()?;
            let size = header.size()?;
            match header.flag() {
                b'x' | b'X' => {
                    extensions = Extensions::default();
                    let bytes = self.extension(size)?;
                    extensions.apply(&bytes)?;
                }
                b'g' => {
                    let bytes = self.extension(size)?;
                    pax::check_global(&bytes)?;
                }
                b'L' => long_name = Some(gnu_name(&self.extension(size)?)?),
                b'K' => long_target = Some(gnu_name(&self.extension(size)?)?),
                // A volume label.
                b'V' => self.skip(padded(size)?, "a volume label")?,
                flag => {
                    let path = long_name.unwrap_or_else(|| header.path());
                    let target = long_target.unwrap_or_else(|| header.link_target().to_vec());
                    return self.member(flag, path, target, extensions).map(Some);
                }
            }
        }
    }

    /// The current entry's next content; `None` at its end.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        self.give_back();
        let content = &mut self.content;
        if content.current.is_none() {
            content.current = content.segments.next();
        }
        let Some(segment) = &mut content.current else {
            let hole = content.size - content.position;
            content.position = content.size;
            return Ok((hole > 0).then_some(Piece::Hole(hole)));
        };
        if content.position < segment.offset {
            let hole = segment.offset - content.position;
            content.position = segment.offset;
            return Ok(Some(Piece::Hole(hole)));
        }
        let available = self.stream.fill()?;
        if available.is_empty() {
            return Err(TarError::Truncated { what: "a file" }.into());
        }
        let count = usize::try_from(segment.length)
            .map_or(available.len(), |left| left.min(available.len()));
        segment.offset += count as u64;
        segment.length -= count as u64;
        content.position += count as u64;
        if segment.length == 0 {
            content.current = None;
        }
        self.lent = count;
        Ok(available.get(..count).map(Piece::Data))
    }

    /// Reads what follows the end marker, so that the whole stream is digested.
    pub fn drain(&mut self) -> Result<(), ReadError> {
        self.give_back();
        loop {
            let count = self.stream.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            self.advance(count);
        }
    }

    /// Reads one header into `block`; false at the end of the archive.
    fn header(&mut self, at_boundary: bool) -> Result<bool, ReadError> {
        if !self.read_block("a header", at_boundary)? {
            return if self.end_marker_required {
                Err(TarError::NoEndMarker.into())
            } else {
                Ok(false)
            };
        }
        if !Header(&self.block).is_zero() {
            return Ok(true);
        }
        // One zero block and nothing behind it counts as the marker of two.
        if !at_boundary {
            Err(TarError::Truncated {
                what: "an extended header",
            }
            .into())
        } else if self.read_block("the end marker", true)? && !Header(&self.block).is_zero() {
            Err(TarError::Checksum.into())
        } else {
            Ok(false)
        }
    }

    fn member(
        &mut self,
        flag: u8,
        path: Vec<u8>,
        target: Vec<u8>,
        extensions: Extensions,
    ) -> Result<Entry, ReadError> {
        let header = Header(&self.block);
        let target = extensions.link_target.unwrap_or(target);
        let path = extensions
            .sparse
            .name
            .clone()
            .or(extensions.path)
            .unwrap_or(path);
        let owner = |field, value: Option<u32>, header: Result<i64, TarError>| match value {
            Some(id) => Ok(id),
            None => number::owner(field, header?),
        };
        let mut entry = Entry {
            mode: header.mode()?,
            uid: owner("uid", extensions.uid, header.uid())?,
            gid: owner("gid", extensions.gid, header.gid())?,
            mtime: match extensions.mtime {
                Some(time) => time,
                None => Time {
                    seconds: header.mtime()?,
                    nanoseconds: 0,
                },
            },
            kind: Kind::Directory,
            path,
            xattrs: extensions.xattrs,
        };
        let stored = match extensions.size {
            Some(size) => size,
            None => header.size()?,
        };
        entry.kind = match flag {
            // Before there was a flag for directories, a slash at the end told them.
            0 if entry.path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => {
                let encoding = extensions.sparse.encoding()?;
                let (map, size) = match encoding {
                    None => (Map::dense(stored), stored),
                    Some(encoding) => {
                        let size = extensions.sparse.size.ok_or(TarError::BadSparseMap {
                            reason: "the file's size is missing",
                        })?;
                        (self.pax_map(encoding, stored, size)?, size)
                    }
                };
                self.begin_content(map, size, stored)?;
                Kind::File { size }
            }
            b'S' => {
                let (map, size) = self.gnu_map(stored)?;
                self.begin_content(map, size, stored)?;
                Kind::File { size }
            }
            // Whatever size these have, no content follows them.
            b'1' => Kind::HardLink { target },
            b'2' => Kind::Symlink { target },
            b'3' => {
                let (major, minor) = header.device()?;
                Kind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = header.device()?;
                Kind::BlockDevice { major, minor }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => return Err(TarError::UnsupportedType { flag }.into()),
        };
        Ok(entry)
    }

    fn begin_content(&mut self, map: Map, size: u64, stored: u64) -> Result<(), TarError> {
        self.content = Content {
            segments: map.segments.into_iter(),
            current: None,
            position: 0,
            size,
            padding: padded(stored)? - stored,
        };
        Ok(())
    }

    fn pax_map(&mut self, encoding: Encoding, stored: u64, size: u64) -> Result<Map, ReadError> {
        let (map, map_bytes) = match encoding {
            Encoding::InRecords(map) => (map, 0),
            Encoding::InData => {
                let mut lines = LineParser::default();
                let mut map_bytes = 0;
                loop {
                    map_bytes += BLOCK as u64;
                    if map_bytes > stored {
                        return Err(TarError::BadSparseMap {
                            reason: "it is longer than the entry",
                        }
                        .into());
                    }
                    self.read_block("a sparse map", false)?;
                    if lines.block(&self.block)? {
                        break (lines.map, map_bytes);
                    }
                }
            }
        };
        map.check(size, stored - map_bytes)?;
        Ok(map)
    }

    fn gnu_map(&mut self, stored: u64) -> Result<(Map, u64), ReadError> {
        let header = Header(&self.block);
        if !header.is_gnu() {
            return Err(TarError::UnsupportedType { flag: b'S' }.into());
        }
        let size = header.sparse_real_size()?;
        let mut map = Map::default();
        map.push_pairs(header.sparse_pairs())?;
        let mut continues = header.sparse_continues();
        while continues {
            self.read_block("a sparse map", false)?;
            let (pairs, rest) = self.block.split_at(21 * 24);
            // A block that adds nothing could be repeated for ever.
            let before = map.segments.len();
            map.push_pairs(pairs)?;
            continues = rest.first().is_some_and(|byte| *byte != 0);
            if continues && map.segments.len() == before {
                return Err(TarError::BadSparseMap {
                    reason: "an empty block is continued",
                }
                .into());
            }
        }
        map.check(size, stored)?;
        Ok((map, size))
    }

    /// The content of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::ExtensionTooLong {
                size,
                max: MAX_EXTENSION_BYTES,
            }
            .into());
        }
        let what = "an extended header";
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let available = self.stream.fill()?;
            if available.is_empty() {
                return Err(TarError::Truncated { what }.into());
            }
            let count = available.len().min(size as usize - bytes.len());
            bytes.extend(available.iter().take(count));
            self.advance(count);
        }
        self.skip(padded(size)? - size, what)?;
        Ok(bytes)
    }

    fn skip(&mut self, mut count: u64, what: &'static str) -> Result<(), ReadError> {
        while count > 0 {
            let available = self.stream.fill()?.len();
            if available == 0 {
                return Err(TarError::Truncated { what }.into());
            }
            let step = usize::try_from(count).map_or(available, |count| count.min(available));
            self.advance(step);
            count -= step as u64;
        }
        Ok(())
    }

    /// Fills `block`; false if the stream is at its end and `may_end`.
    fn read_block(&mut self, what: &'static str, may_end: bool) -> Result<bool, ReadError> {
        let mut filled = 0;
        while let Some(rest) = self.block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let available = self.stream.fill()?;
            if available.is_empty() {
                return if filled == 0 && may_end {
                    Ok(false)
                } else {
                    Err(TarError::Truncated { what }.into())
                };
            }
            let count = available.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..count), available.get(..count)) {
                to.copy_from_slice(from);
            }
            filled += count;
            self.advance(count);
        }
        Ok(true)
    }

    fn give_back(&mut self) {
        let count = mem::take(&mut self.lent);
        if count > 0 {
            self.advance(count);
        }
    }

    fn advance(&mut self, count: usize) {
        self.stream.consume(count);
        self.offset += count as u64;
    }
}

/// Size with its padding.
fn padded(size: u64) -> Result<u64, TarError> {
    size.checked_next_multiple_of(BLOCK as u64)
        .ok_or_else(|| TarError::OutOfRange {
            field: "size",
            value: size.to_string(),
        })
}

/// A GNU long name ends at its NUL; behind that there is only padding.
fn gnu_name(bytes: &[u8]) -> Result<Vec<u8>, TarError> {
    let name = until_nul(bytes);
    if bytes.iter().skip(name.len()).any(|byte| *byte != 0) {
        return Err(TarError::NulInName);
    }
    Ok(name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lends at most `piece` bytes at a time.
    struct Slow<'a> {
        bytes: &'a [u8],
        piece: usize,
    }

    impl Stream for Slow<'_> {
        fn fill(&mut self) -> Result<&[u8], StreamError> {
            Ok(&self.bytes[..self.piece.min(self.bytes.len())])
        }

        fn consume(&mut self, count: usize) {
            self.bytes = &self.bytes[count..];
        }
    }

    fn member(flag: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[148..156].fill(b' ');
        block[156] = flag;
        block[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut bytes = [&block[..], content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[test]
    fn entries_do_not_depend_on_how_the_bytes_come() {
        let content: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
        let bytes = [
            member(b'x', "x", b"12 path=abc\n"),
            member(b'0', "other", &content),
            member(b'5', "unread", &[]),
            member(b'0', "skipped", &content),
            member(b'0', "last", b"1"),
            vec![0; 1024],
        ]
        .concat();
        for piece in [1, 7, 511, 512, 513, 4096, usize::MAX] {
            let mut stream = Slow {
                bytes: &bytes,
                piece,
            };
            let mut reader = Reader::new(&mut stream, true);
            let mut seen = Vec::new();
            while let Some(entry) = reader.next_entry().unwrap() {
                let mut content = Vec::new();
                if entry.path != b"skipped" {
                    while let Some(Piece::Data(bytes)) = reader.piece().unwrap() {
                        content.extend_from_slice(bytes);
                    }
                }
                seen.push((String::from_utf8(entry.path).unwrap(), content));
            }
            reader.drain().unwrap();
            assert_eq!(reader.offset(), bytes.len() as u64);
            let expected = [
                ("abc".to_owned(), content.clone()),
                ("unread".to_owned(), Vec::new()),
                ("skipped".to_owned(), Vec::new()),
                ("last".to_owned(), b"1".to_vec()),
            ];
            assert_eq!(seen, expected, "{piece}");
        }
    }

    #[test]
    fn without_a_marker_the_last_padding_may_be_cut() {
        let bytes = [member(b'0', "a", b"1"), member(b'0', "b", &[b'2'; 513])].concat();
        let unpadded = bytes.len() - 511;
        for (length, required, expected) in [
            (bytes.len(), false, Ok(2)),
            (unpadded, false, Ok(2)),
            (unpadded + 1, false, Ok(2)),
            (unpadded - 1, false, Err("a file")),
            (513, false, Ok(1)),
            (514, false, Ok(1)),
            (700, false, Ok(1)),
            (1100, false, Err("a header")),
            (unpadded, true, Err("a file's padding")),
        ] {
            let mut stream = Slow {
                bytes: &bytes[..length],
                piece: 100,
            };
            let mut reader = Reader::new(&mut stream, required);
            let mut count = 0;
            let result = loop {
                match reader.next_entry() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break Ok(count),
                    Err(ReadError::Tar(TarError::Truncated { what })) => break Err(what),
                    Err(error) => panic!("{length}: {error:?}"),
                }
            };
            assert_eq!(result, expected, "{length}");
        }
    }
}
