//! Reads a cached blob and checks it on the way.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::{Digest, RunningDigest};

/// A reader that reports the end only after the digest of the whole was found right.
pub(crate) struct Verified {
    file: Arc<File>,
    expected: Digest,
    running: RunningDigest,
    cancelled: Arc<AtomicBool>,
}

impl Verified {
    pub fn new(file: Arc<File>, expected: Digest, cancelled: Arc<AtomicBool>) -> Verified {
        Verified {
            file,
            expected,
            running: RunningDigest::new(),
            cancelled,
        }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the import was cancelled"));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        // By position, so that several readers of one file do not move each other.
        let count = self.file.read_at(buffer, self.running.bytes())?;
        self.running.update(&buffer[..count]);
        if count == 0 && self.running.digest() != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the cached blob is damaged",
            ));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(content: &[u8], expected: Digest) -> io::Result<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(content)?;
        let mut bytes = Vec::new();
        Verified::new(Arc::new(file.reopen()?), expected, Arc::default())
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_damaged_blob_never_ends_well() {
        assert_eq!(read(b"abc", Digest::of(b"abc")).unwrap(), b"abc");
        assert_eq!(read(b"", Digest::of(b"")).unwrap(), b"");
        for damaged in [&b"abd"[..], b"ab", b"", b"abcd"] {
            let error = read(damaged, Digest::of(b"abc")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
