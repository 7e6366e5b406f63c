//! From a compressed layer to its bytes and their digest, off the reader's thread.
//!
//! ```text
//! input ── decompress thread ──┬── chunks ── the caller (tar, merge, write)
//!                 ▲            └── chunks ── digest thread
//!                 └───────── emptied buffers ─────────┘
//! ```
//!
//! The buffers are shared by both consumers and go back to the decompressor when the slower one
//! has dropped them, so memory is bounded by [`BUFFERS`] times [`BUFFER_BYTES`]. Limits: a blocked
//! `read` of the input cannot be interrupted from here; the input must have a timeout of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::{mem, panic, thread};

use sha2::{Digest, Sha256};

/// Bytes of one buffer: large enough that a hand-over costs nothing, small enough for the cache.
const BUFFER_BYTES: usize = 256 * 1024;
const BUFFERS: usize = 8;
/// Longest signature in [`Compression::of`].
const SIGNATURE_BYTES: usize = 6;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not declared: whatever the first bytes say.
    Auto,
    /// A tar archive as it is.
    Plain,
    /// One or several gzip members.
    Gzip,
    /// One or several zstd frames.
    Zstd,
}

impl Compression {
    /// What the first bytes of a stream say, or the name of a format which is not read here.
    fn of(head: &[u8]) -> Result<Compression, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            _ => Ok(Compression::Plain),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::Auto => "any compression",
            Compression::Plain => "uncompressed tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Why a layer's bytes ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    #[error("cannot decompress the layer as {format}")]
    Decompress {
        format: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the layer is declared as {declared} but is {found}")]
    WrongFormat {
        declared: &'static str,
        found: &'static str,
    },
    #[error("{format} compression is not supported")]
    UnsupportedFormat { format: &'static str },
    #[error("the layer is longer than {max} bytes uncompressed")]
    TooLong { max: u64 },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A stream that lends its bytes piece by piece. An empty piece is the end.
pub(crate) trait Stream {
    fn fill(&mut self) -> Result<&[u8], StreamError>;
    /// Gives back the first `count` bytes of what [`Stream::fill`] lent.
    fn consume(&mut self, count: usize);
}

impl Stream for &[u8] {
    fn fill(&mut self) -> Result<&[u8], StreamError> {
        Ok(self)
    }

    fn consume(&mut self, count: usize) {
        *self = self.get(count..).unwrap_or_default();
    }
}

/// Runs `consume` over the uncompressed bytes of `input` while other threads decompress and hash.
///
/// The digest is that of the bytes which were produced: it is the whole stream's only if
/// `consume` read to the end.
pub(crate) fn decompressed<T>(
    input: impl Read + Send,
    compression: Compression,
    max_bytes: u64,
    consume: impl FnOnce(&mut Chunks) -> T,
) -> Result<(T, [u8; 32]), StreamError> {
    thread::scope(|scope| {
        let (to_caller, from_decompressor) = sync_channel(BUFFERS);
        let (to_digest, for_digest) = sync_channel::<Arc<Buffer>>(BUFFERS);
        let digest = thread::Builder::new()
            .name("layer-digest".to_owned())
            .spawn_scoped(scope, move || {
                let mut hasher = Sha256::new();
                for chunk in for_digest {
                    hasher.update(&chunk.bytes);
                }
                <[u8; 32]>::from(hasher.finalize())
            })
            .map_err(StreamError::Thread)?;
        let mut producer = Producer::new(to_caller, to_digest, max_bytes);
        thread::Builder::new()
            .name("layer-decompress".to_owned())
            .spawn_scoped(scope, move || {
                if let Err(error) = producer.run(input, compression) {
                    // The caller may have stopped reading; then nobody waits for the error.
                    let _ = producer.to_caller.send(Err(error));
                }
            })
            .map_err(StreamError::Thread)?;
        let mut chunks = Chunks {
            receiver: from_decompressor,
            current: None,
            position: 0,
        };
        let result = consume(&mut chunks);
        // Ends the decompressor, and with it the digest thread, if `consume` stopped early.
        drop(chunks);
        match digest.join() {
            Ok(digest) => Ok((result, digest)),
            Err(cause) => panic::resume_unwind(cause),
        }
    })
}

/// Bytes shared by both consumers; the memory returns to the pool with the last of them.
struct Buffer {
    bytes: Vec<u8>,
    pool: Sender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Fails only when the decompressor has ended and wants no more buffers.
        let _ = self.pool.send(mem::take(&mut self.bytes));
    }
}

/// The caller's end: uncompressed bytes in order.
pub(crate) struct Chunks {
    receiver: Receiver<Result<Arc<Buffer>, StreamError>>,
    current: Option<Arc<Buffer>>,
    position: usize,
}

impl Stream for Chunks {
    fn fill(&mut self) -> Result<&[u8], StreamError> {
        let spent = self
            .current
            .as_ref()
            .is_none_or(|chunk| self.position >= chunk.bytes.len());
        if spent {
            // Dropped before the wait, so that the decompressor can have it.
            self.current = None;
            self.position = 0;
            match self.receiver.recv() {
                Ok(chunk) => self.current = Some(chunk?),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self
            .current
            .as_ref()
            .and_then(|chunk| chunk.bytes.get(self.position..))
            .unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

struct Producer {
    to_caller: SyncSender<Result<Arc<Buffer>, StreamError>>,
    to_digest: SyncSender<Arc<Buffer>>,
    pool: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    buffers_made: usize,
    left: u64,
    max: u64,
}

impl Producer {
    fn new(
        to_caller: SyncSender<Result<Arc<Buffer>, StreamError>>,
        to_digest: SyncSender<Arc<Buffer>>,
        max: u64,
    ) -> Self {
        Producer {
            to_caller,
            to_digest,
            pool: channel(),
            buffers_made: 0,
            left: max,
            max,
        }
    }

    fn run(&mut self, mut input: impl Read, declared: Compression) -> Result<(), StreamError> {
        let mut head = [0; SIGNATURE_BYTES];
        let length = read_full(&mut input, &mut head).map_err(StreamError::Read)?;
        let head = head.get(..length).unwrap_or_default();
        let found =
            Compression::of(head).map_err(|format| StreamError::UnsupportedFormat { format })?;
        if declared != Compression::Auto && declared != found {
            return Err(StreamError::WrongFormat {
                declared: declared.name(),
                found: found.name(),
            });
        }
        let input_failed = AtomicBool::new(false);
        let input = head.chain(Watched {
            input,
            failed: &input_failed,
        });
        let buffered = |input| BufReader::with_capacity(BUFFER_BYTES, input);
        let outcome = match found {
            Compression::Plain | Compression::Auto => self.pump(input),
            Compression::Gzip => self.pump(flate2::bufread::MultiGzDecoder::new(buffered(input))),
            Compression::Zstd => self.pump(zstd_decoder(buffered(input))?),
        };
        outcome.map_err(|error| match error {
            StreamError::Read(source)
                if found != Compression::Plain && !input_failed.load(Ordering::Relaxed) =>
            {
                StreamError::Decompress {
                    format: found.name(),
                    source,
                }
            }
            other => other,
        })
    }

    /// Moves everything `source` yields to both consumers; ends early when the caller is gone.
    fn pump(&mut self, mut source: impl Read) -> Result<(), StreamError> {
        loop {
            let mut bytes = self.empty_buffer();
            let length = read_full(&mut source, &mut bytes).map_err(StreamError::Read)?;
            bytes.truncate(length);
            if length == 0 {
                return Ok(());
            }
            self.left = self
                .left
                .checked_sub(length as u64)
                .ok_or(StreamError::TooLong { max: self.max })?;
            let chunk = Arc::new(Buffer {
                bytes,
                pool: self.pool.0.clone(),
            });
            // The digest first: it never refuses, and the caller is the one who ends early.
            if self.to_digest.send(Arc::clone(&chunk)).is_err()
                || self.to_caller.send(Ok(chunk)).is_err()
            {
                return Ok(());
            }
        }
    }

    fn empty_buffer(&mut self) -> Vec<u8> {
        let recycled = if self.buffers_made < BUFFERS {
            self.pool.1.try_recv().ok()
        } else {
            // Every buffer comes back when its consumers drop it, and we hold a sender: no error.
            self.pool.1.recv().ok()
        };
        let mut buffer = recycled.unwrap_or_else(|| {
            self.buffers_made += 1;
            Vec::with_capacity(BUFFER_BYTES)
        });
        buffer.resize(BUFFER_BYTES, 0);
        buffer
    }
}

fn zstd_decoder<R: BufRead>(
    input: R,
) -> Result<zstd::stream::read::Decoder<'static, R>, StreamError> {
    zstd::stream::read::Decoder::with_buffer(input).map_err(|source| StreamError::Decompress {
        format: Compression::Zstd.name(),
        source,
    })
}

/// Remembers that the input itself failed, which a decoder's error does not tell.
struct Watched<'a, R> {
    input: R,
    failed: &'a AtomicBool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// Fills `buffer` as far as the input goes.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SKIPPABLE: &[u8] = b"\x50\x2a\x4d\x18\x04\0\0\0junk";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(
        input: &[u8],
        compression: Compression,
        max: u64,
    ) -> Result<(Vec<u8>, [u8; 32]), StreamError> {
        let (result, digest) = decompressed(input, compression, max, |chunks| {
            let mut all = Vec::new();
            loop {
                let piece = chunks.fill()?;
                if piece.is_empty() {
                    return Ok(all);
                }
                let count = piece.len();
                all.extend_from_slice(piece);
                chunks.consume(count);
            }
        })?;
        Ok((result?, digest))
    }

    /// Longer than all buffers together, so that recycling is exercised.
    fn sample() -> Vec<u8> {
        (0..(BUFFERS * BUFFER_BYTES * 3 + 17) as u32)
            .map(|n| (n >> 7) as u8)
            .collect()
    }

    #[test]
    fn every_format_yields_the_same_bytes_and_digest() {
        let bytes = sample();
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        let (front, back) = bytes.split_at(bytes.len() / 3);
        let members = [gzip(front), gzip(back)].concat();
        let frames = [
            zstd::encode_all(front, 1).unwrap(),
            zstd::encode_all(back, 1).unwrap(),
        ];
        for (input, compression) in [
            (bytes.clone(), Compression::Plain),
            (gzip(&bytes), Compression::Gzip),
            (members, Compression::Gzip),
            (zstd::encode_all(&bytes[..], 1).unwrap(), Compression::Zstd),
            (frames.concat(), Compression::Zstd),
            // zstd:chunked keeps its table of contents in a frame that is to be skipped.
            (
                [&zstd::encode_all(&bytes[..], 1).unwrap()[..], SKIPPABLE].concat(),
                Compression::Zstd,
            ),
        ] {
            for declared in [compression, Compression::Auto] {
                let (found, digest) = read_all(&input, declared, u64::MAX).unwrap();
                assert!(found == bytes, "{compression:?}");
                assert_eq!(digest, expected, "{compression:?}");
            }
        }
    }

    #[test]
    fn bad_streams_are_named() {
        let bytes = sample();
        let zipped = gzip(&bytes);
        let cut = &zipped[..zipped.len() - 9];
        for (input, declared, max, text) in [
            (
                &bytes[..],
                Compression::Gzip,
                u64::MAX,
                "the layer is declared as gzip but is uncompressed tar",
            ),
            (
                &zipped,
                Compression::Zstd,
                u64::MAX,
                "the layer is declared as zstd but is gzip",
            ),
            (
                b"\xfd7zXZ\0abc",
                Compression::Auto,
                u64::MAX,
                "xz compression is not supported",
            ),
            (
                b"BZh91AY",
                Compression::Auto,
                u64::MAX,
                "bzip2 compression is not supported",
            ),
            (
                cut,
                Compression::Gzip,
                u64::MAX,
                "cannot decompress the layer as gzip",
            ),
            (
                b"\x28\xb5\x2f\xfdjunk",
                Compression::Zstd,
                u64::MAX,
                "cannot decompress the layer as zstd",
            ),
            (
                &zipped,
                Compression::Gzip,
                1000,
                "the layer is longer than 1000 bytes uncompressed",
            ),
        ] {
            let error = read_all(input, declared, max).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_failing_input_is_not_blamed_on_the_decoder() {
        struct Failing(Vec<u8>);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                let count = self.0.len().min(buffer.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0.drain(..count);
                Ok(count)
            }
        }
        let half = gzip(&sample())[..1000].to_vec();
        let (result, _) = decompressed(Failing(half), Compression::Gzip, u64::MAX, |chunks| {
            loop {
                let count = chunks.fill()?.len();
                if count == 0 {
                    return Ok(());
                }
                chunks.consume(count);
            }
        })
        .unwrap();
        assert!(matches!(result, Err(StreamError::Read(_))), "{result:?}");
    }

    #[test]
    fn a_caller_that_stops_early_stops_everything() {
        let bytes = sample();
        let (count, _) = decompressed(&bytes[..], Compression::Plain, u64::MAX, |chunks| {
            chunks.fill().map(<[u8]>::len)
        })
        .unwrap();
        assert_eq!(count.unwrap(), BUFFER_BYTES);
    }
}
