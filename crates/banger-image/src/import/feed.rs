//! An async byte stream, read by a thread.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

const PIECE: usize = 256 * 1024;
/// Pieces under way: what bounds the memory between a fast source and a slow thread.
const QUEUE: usize = 8;

/// What the thread reads.
pub(crate) struct Fed {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    ended: bool,
}

/// The async side.
pub(crate) struct Feeder {
    queue: mpsc::Sender<io::Result<Bytes>>,
    fed: Arc<AtomicU64>,
}

/// Both ends. Dropping the feeder before the stream's end makes the thread's next read fail.
pub(crate) fn pair() -> (Feeder, Fed) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let feeder = Feeder {
        queue: sender,
        fed: Arc::default(),
    };
    let fed = Fed {
        queue: receiver,
        current: Bytes::new(),
        ended: false,
    };
    (feeder, fed)
}

impl Feeder {
    /// How many bytes were fed so far.
    pub fn count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fed)
    }

    /// Hands over everything up to the end of `source`, or until the thread reads no more.
    /// `Err` is the source's own failure, which the thread sees too.
    pub async fn feed(self, source: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match source.read_buf(&mut buffer).await {
                Ok(0) => {
                    let _ = self.queue.send(Ok(Bytes::new())).await;
                    return Ok(());
                }
                Ok(count) => {
                    self.fed.fetch_add(count as u64, Ordering::Relaxed);
                    if self.queue.send(Ok(buffer.split().freeze())).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let told = io::Error::new(error.kind(), "the source failed");
                    let _ = self.queue.send(Err(told)).await;
                    return Err(error);
                }
            }
        }
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended && !buffer.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Err(io::Error::other("the import was cancelled")),
            }
            // An empty piece is the end.
            self.ended = self.current.is_empty();
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_whole_and_in_order() {
        let bytes: Vec<u8> = (0..PIECE * QUEUE * 2 + 5).map(|n| (n / 7) as u8).collect();
        let (feeder, mut fed) = pair();
        let count = feeder.count();
        let reader = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            fed.read_to_end(&mut all).map(|_| all)
        });
        feeder.feed(&mut &bytes[..]).await.unwrap();
        assert!(reader.await.unwrap().unwrap() == bytes);
        assert_eq!(count.load(Ordering::Relaxed), bytes.len() as u64);
    }

    #[tokio::test]
    async fn a_dropped_feeder_is_not_an_end() {
        let (feeder, mut fed) = pair();
        drop(feeder);
        let outcome = tokio::task::spawn_blocking(move || fed.read(&mut [0]))
            .await
            .unwrap();
        assert!(outcome.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_the_feeder() {
        let (feeder, fed) = pair();
        drop(fed);
        feeder.feed(&mut tokio::io::repeat(0)).await.unwrap();
    }
}
