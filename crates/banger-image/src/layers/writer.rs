//! The public face: layers in order, then the finished base.

use std::io::Read;

use super::error::BaseError;
use super::merge::Merge;
use super::output::{BaseFile, Output};
use crate::decompress::{Compression, decompressed};
use crate::digest::{Digest, RunningDigest};
use crate::erofs::{self, BLOCK_BYTES};
use crate::limits::Limits;

/// Changes whenever the same layers would become other bytes.
const FORMAT: &[u8] = b"banger base 1\n";

/// Writes one base from the layers of an image, lowest first.
///
/// Nothing of it is asynchronous: it belongs on a thread that may block. The file must be empty.
/// It has no superblock, and cannot be mounted, before [`BaseWriter::finish`] has returned.
pub struct BaseWriter<W> {
    merge: Merge<W>,
    max_layer_bytes: u64,
    diff_ids: Vec<Digest>,
    /// Set while a layer is being added: after an error the tree is between two states.
    poisoned: bool,
}

/// What one layer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    pub entries: u64,
    /// Uncompressed bytes.
    pub bytes: u64,
    /// Some of the names of extended attributes that were left out.
    pub dropped_xattrs: Vec<String>,
}

/// What the base became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseSummary {
    pub size: u64,
    /// Files in the tree, a hard-linked one counted once.
    pub files: u64,
    /// What [`base_digest`] says of its layers; the UUID is the beginning of it.
    pub content_digest: Digest,
    pub uuid: [u8; 16],
}

/// Names the base which these layers, lowest first, become. The same digest means the same bytes.
pub fn base_digest(diff_ids: &[Digest]) -> Digest {
    let mut digest = RunningDigest::new();
    digest.update(FORMAT);
    for diff_id in diff_ids {
        digest.update(diff_id.as_bytes());
    }
    digest.digest()
}

impl<W: BaseFile> BaseWriter<W> {
    pub fn new(file: W, limits: Limits) -> Self {
        let max_layer_bytes = limits.max_layer_bytes;
        // The first block is the superblock's.
        let output = Output::new(file, BLOCK_BYTES, limits.max_base_bytes);
        BaseWriter {
            merge: Merge::new(output, limits),
            max_layer_bytes,
            diff_ids: Vec::new(),
            poisoned: false,
        }
    }

    /// Adds the next layer upwards. With `expected` the layer's digest is checked; without it the
    /// archive must have its end marker, which is then all that tells it from a truncated one.
    pub fn add_layer(
        &mut self,
        input: impl Read + Send,
        compression: Compression,
        expected: Option<Digest>,
    ) -> Result<LayerSummary, BaseError> {
        if std::mem::replace(&mut self.poisoned, true) {
            return Err(BaseError::Poisoned);
        }
        self.merge.dropped.clear();
        let merge = &mut self.merge;
        let max = self.max_layer_bytes;
        let (merged, digest) = decompressed(input, compression, max, |chunks| {
            merge.layer(chunks, expected.is_none())
        })
        .map_err(BaseError::Stream)?;
        let (entries, bytes) = merged?;
        let diff_id = Digest::from_bytes(digest);
        if let Some(expected) = expected.filter(|expected| *expected != diff_id) {
            return Err(BaseError::WrongDiffId {
                expected,
                found: diff_id,
            });
        }
        self.diff_ids.push(diff_id);
        self.poisoned = false;
        Ok(LayerSummary {
            diff_id,
            entries,
            bytes,
            dropped_xattrs: self.merge.dropped.iter().cloned().collect(),
        })
    }

    /// Writes directories, inodes and, last, the superblock. Does not sync the file.
    pub fn finish(self) -> Result<BaseSummary, BaseError> {
        if self.poisoned {
            return Err(BaseError::Poisoned);
        }
        let content_digest = base_digest(&self.diff_ids);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(content_digest.as_bytes().split_at(16).0);
        // Marked as a UUID of the application's own making (RFC 9562, version 8).
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let Merge {
            tree,
            tails,
            mut output,
            ..
        } = self.merge;
        let written = erofs::write(&tree, &tails, &mut output, uuid)?;
        Ok(BaseSummary {
            size: written.size,
            files: written.files,
            content_digest,
            uuid,
        })
    }
}
