//! Maps of sparse files. Pure.

use super::error::TarError;
use super::{MAX_SEGMENTS, number};

/// A run of bytes that the archive holds; between segments there is nothing but zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// Segments in ascending order, without overlap, none empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    pub segments: Vec<Segment>,
    stored: u64,
}

impl Map {
    /// The map of a file that is not sparse.
    pub fn dense(size: u64) -> Map {
        let whole = Segment {
            offset: 0,
            length: size,
        };
        Map {
            segments: if size == 0 { Vec::new() } else { vec![whole] },
            stored: size,
        }
    }

    pub fn push(&mut self, offset: u64, length: u64) -> Result<(), TarError> {
        let reason = |reason| Err(TarError::BadSparseMap { reason });
        let end = self
            .segments
            .last()
            .map_or(0, |last| last.offset + last.length);
        if offset
            .checked_add(length)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return reason("a segment ends beyond 63 bits");
        }
        if offset < end {
            return reason("segments overlap or are not in order");
        }
        // An empty segment only marks where the file ends.
        if length == 0 {
            return Ok(());
        }
        if self.segments.len() >= MAX_SEGMENTS {
            return reason("too many segments");
        }
        self.stored += length;
        self.segments.push(Segment { offset, length });
        Ok(())
    }

    /// Checks the finished map against the file's apparent size and the bytes the archive holds.
    pub fn check(&self, size: u64, stored: u64) -> Result<(), TarError> {
        let end = self
            .segments
            .last()
            .map_or(0, |last| last.offset + last.length);
        let reason = if end > size {
            "a segment ends beyond the file"
        } else if self.stored != stored {
            "the segments do not add up to the stored size"
        } else {
            return Ok(());
        };
        Err(TarError::BadSparseMap { reason })
    }

    /// Adds the pairs of an old GNU header or of a block that continues it.
    pub fn push_pairs(&mut self, pairs: &[u8]) -> Result<(), TarError> {
        for pair in pairs.chunks_exact(24) {
            let (offset, length) = pair.split_at(12);
            // Unused pairs are filled with NUL.
            if length.first() == Some(&0) && offset.first() == Some(&0) {
                break;
            }
            self.push(
                number::size("sparse offset", offset)?,
                number::size("sparse length", length)?,
            )?;
        }
        Ok(())
    }
}

/// What pax records say of a sparse file.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// `GNU.sparse.major` and `.minor`.
    pub major: Option<u64>,
    pub minor: Option<u64>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub size: Option<u64>,
    /// `GNU.sparse.name`: the header's own name is a stand-in.
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.map`, or the numbers of repeated `.offset` and `.numbytes` records.
    pub numbers: Vec<u64>,
    pub any: bool,
}

/// Where the map of a pax sparse file is.
pub(super) enum Encoding {
    /// Format 0.0 and 0.1.
    InRecords(Map),
    /// Format 1.0: decimal lines in front of the data.
    InData,
}

impl Records {
    pub fn encoding(&self) -> Result<Option<Encoding>, TarError> {
        match (self.any, self.major, self.minor) {
            (false, ..) => Ok(None),
            (true, Some(1), None | Some(0)) => Ok(Some(Encoding::InData)),
            (true, None | Some(0), _) => {
                let mut map = Map::default();
                if !self.numbers.len().is_multiple_of(2) {
                    return Err(TarError::BadSparseMap {
                        reason: "an offset without a length",
                    });
                }
                for pair in self.numbers.chunks_exact(2) {
                    if let [offset, length] = pair {
                        map.push(*offset, *length)?;
                    }
                }
                Ok(Some(Encoding::InRecords(map)))
            }
            _ => Err(TarError::BadSparseMap {
                reason: "its version is not supported",
            }),
        }
    }
}

/// Reads the decimal lines of format 1.0: a count, then that many pairs.
#[derive(Debug, Default)]
pub(super) struct LineParser {
    digits: Vec<u8>,
    /// Numbers still to come; unknown until the count is read.
    left: Option<u64>,
    offset: Option<u64>,
    pub map: Map,
}

impl LineParser {
    /// Takes one block; true when the map is complete. What follows in that block is padding.
    pub fn block(&mut self, block: &[u8]) -> Result<bool, TarError> {
        for byte in block {
            if self.left == Some(0) {
                break;
            }
            if *byte != b'\n' {
                // Twenty digits hold every 64-bit number.
                if self.digits.len() >= 20 {
                    return Err(TarError::NotANumber {
                        field: "sparse map",
                    });
                }
                self.digits.push(*byte);
                continue;
            }
            let value = number::decimal("sparse map", &self.digits)?;
            self.digits.clear();
            match (self.left, self.offset.take()) {
                (None, _) => {
                    if value > MAX_SEGMENTS as u64 {
                        return Err(TarError::BadSparseMap {
                            reason: "too many segments",
                        });
                    }
                    self.left = Some(value * 2);
                }
                (Some(left), None) => {
                    self.offset = Some(value);
                    self.left = Some(left - 1);
                }
                (Some(left), Some(offset)) => {
                    self.map.push(offset, value)?;
                    self.left = Some(left - 1);
                }
            }
        }
        Ok(self.left == Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_split_anywhere() {
        let text = b"2\n0\n100\n5000\n12\n\0\0\0";
        for split in 0..text.len() {
            let mut parser = LineParser::default();
            let (front, back) = text.split_at(split);
            let done = parser.block(front).unwrap() || parser.block(back).unwrap();
            assert!(done);
            assert_eq!(parser.map.segments.len(), 2);
            assert!(parser.map.check(5012, 112).is_ok());
        }
    }

    #[test]
    fn bad_maps() {
        let map = |pairs: &[(u64, u64)]| {
            let mut map = Map::default();
            for (offset, length) in pairs {
                map.push(*offset, *length)?;
            }
            Ok::<Map, TarError>(map)
        };
        assert!(map(&[(0, 10), (5, 10)]).is_err());
        assert!(map(&[(10, 5), (0, 5)]).is_err());
        assert!(map(&[(u64::MAX, 5)]).is_err());
        assert!(map(&[(0, 10), (20, 0)]).unwrap().check(20, 10).is_ok());
        assert!(map(&[(0, 10)]).unwrap().check(9, 10).is_err());
        assert!(map(&[(0, 10)]).unwrap().check(10, 11).is_err());
        for text in [
            &b"x\n"[..],
            b"99999999\n",
            b"\n",
            b"1\n-1\n2\n",
            b"111111111111111111111\n",
        ] {
            assert!(LineParser::default().block(text).is_err(), "{text:?}");
        }
        assert_eq!(LineParser::default().block(b"1\n5\n"), Ok(false));
    }
}
