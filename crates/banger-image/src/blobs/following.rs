//! Reads a blob while it arrives, as `tail -f` would.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::download::{Download, Reach, Shared};

/// How often a reader that waits for bytes looks whether they are still wanted.
const PATIENCE: Duration = Duration::from_millis(100);

/// A blocking reader over a running [`Download`]. The end is reported only after the digest of
/// the whole was found right.
pub(crate) struct Following {
    shared: Arc<Shared>,
    position: u64,
    cancelled: Arc<AtomicBool>,
}

impl Following {
    /// `cancelled` makes a waiting reader give up.
    pub fn new(download: &Download, cancelled: Arc<AtomicBool>) -> Following {
        Following {
            shared: download.shared(),
            position: 0,
            cancelled,
        }
    }
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("the import was cancelled"));
            }
            let limit = match self.shared.wait_beyond(self.position, PATIENCE) {
                Reach::To(written) if written <= self.position => continue,
                Reach::To(written) => written,
                Reach::Complete => u64::MAX,
                Reach::Failed => return Err(io::Error::other("the blob cannot be fetched")),
            };
            let most = usize::try_from(limit - self.position).unwrap_or(usize::MAX);
            let length = buffer.len().min(most);
            let count = self
                .shared
                .file
                .read_at(&mut buffer[..length], self.position)?;
            self.position += count as u64;
            return Ok(count);
        }
    }
}
