//! The 512-byte header block: where its fields are. Pure.

use super::error::TarError;
use super::{BLOCK, number};

/// One header block. Fields beyond what its dialect has read as empty.
pub(super) struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    fn bytes(&self, at: usize, length: usize) -> &'a [u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn text(&self, at: usize, length: usize) -> &'a [u8] {
        until_nul(self.bytes(at, length))
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The sum counts its own field as blanks. Old writers summed signed characters.
    pub fn check_sum(&self) -> Result<(), TarError> {
        let stored = number::header("checksum", self.bytes(148, 8))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || stored == signed {
            Ok(())
        } else {
            Err(TarError::Checksum)
        }
    }

    pub fn flag(&self) -> u8 {
        self.0.get(156).copied().unwrap_or_default()
    }

    pub fn is_gnu(&self) -> bool {
        self.bytes(257, 8) == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        self.bytes(257, 6) == b"ustar\0"
    }

    /// The name, behind the prefix where the dialect has one.
    pub fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // star puts two times where the end of the prefix is.
        let prefix_length = if self.bytes(508, 4) == b"tar\0" {
            131
        } else {
            155
        };
        let prefix = if self.is_ustar() {
            self.text(345, prefix_length)
        } else {
            b""
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub fn link_target(&self) -> &'a [u8] {
        self.text(157, 100)
    }

    pub fn mode(&self) -> Result<u16, TarError> {
        let mode = number::header("mode", self.bytes(100, 8))?;
        // Some writers add the file type, which the flag says already.
        Ok((mode & 0o7777) as u16)
    }

    pub fn uid(&self) -> Result<i64, TarError> {
        number::header("uid", self.bytes(108, 8))
    }

    pub fn gid(&self) -> Result<i64, TarError> {
        number::header("gid", self.bytes(116, 8))
    }

    pub fn size(&self) -> Result<u64, TarError> {
        number::size("size", self.bytes(124, 12))
    }

    pub fn mtime(&self) -> Result<i64, TarError> {
        number::header("mtime", self.bytes(136, 12))
    }

    /// Major and minor, bounded to the 12 and 20 bits that Linux has.
    pub fn device(&self) -> Result<(u32, u32), TarError> {
        let part = |field, at, bits: u32| {
            let value = number::size(field, self.bytes(at, 8))?;
            u32::try_from(value)
                .ok()
                .filter(|value| value >> bits == 0)
                .ok_or_else(|| TarError::OutOfRange {
                    field,
                    value: value.to_string(),
                })
        };
        if !self.is_ustar() && !self.is_gnu() {
            return Ok((0, 0));
        }
        Ok((
            part("device major", 329, 12)?,
            part("device minor", 337, 20)?,
        ))
    }

    /// The map entries of an old GNU sparse header: pairs of 12-byte numbers.
    pub fn sparse_pairs(&self) -> &'a [u8] {
        self.bytes(386, 4 * 24)
    }

    /// Whether further map blocks follow the header.
    pub fn sparse_continues(&self) -> bool {
        self.0.get(482).is_some_and(|byte| *byte != 0)
    }

    pub fn sparse_real_size(&self) -> Result<u64, TarError> {
        number::size("real size", self.bytes(483, 12))
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}
