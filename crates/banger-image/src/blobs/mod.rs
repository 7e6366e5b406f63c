//! The blob cache: what was downloaded, by digest, under `blobs/sha256/<hex>`.
//!
//! ```text
//!  obtain ──► cached file ───────────────────────────────► read, hashed again on the way
//!        └──► download: network ► hash ► staging file ─┬─► rename into the cache
//!                                                      └─► readers follow it while it grows
//! ```
//!
//! A blob gets its name only after its digest and size were found right. It is hashed again
//! whenever it is read, so nothing here depends on the disk: blobs are not synced, and one that a
//! crash left damaged is dropped and fetched again.
//!
//! A blob is fetched once even when several images want it at the same time. Who may use bangerd
//! may use all of its cache: a blob's digest, which only its manifest tells, is enough to get it.

mod download;
mod following;
mod verified;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::NamedTempFile;
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::registry::Repository;

pub(crate) use download::Download;
pub(crate) use following::Following;
pub(crate) use verified::Verified;

/// How often a blob is got anew when the cache or another pull lets us down.
pub(crate) const ATTEMPTS: usize = 3;

/// The cache of one image root.
pub(crate) struct Blobs {
    directory: PathBuf,
    staging: PathBuf,
    permits: Arc<Semaphore>,
    running: Mutex<HashMap<Digest, Weak<Download>>>,
}

/// Where the bytes of a wanted blob are.
pub(crate) enum Blob {
    Cached {
        digest: Digest,
        size: u64,
        file: Arc<File>,
    },
    /// On their way. `joined` is set when another pull began it.
    Arriving {
        download: Arc<Download>,
        joined: bool,
    },
}

impl Blobs {
    /// Both directories exist.
    pub fn new(directory: PathBuf, staging: PathBuf, parallel: usize) -> Blobs {
        Blobs {
            directory,
            staging,
            permits: Arc::new(Semaphore::new(parallel.max(1))),
            running: Mutex::default(),
        }
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// The cached file, if its size is right; its digest is checked by who reads it.
    pub fn find(&self, digest: &Digest, size: u64) -> Option<File> {
        let path = self.path(digest);
        let file = File::open(&path).ok()?;
        if file.metadata().is_ok_and(|metadata| metadata.len() == size) {
            Some(file)
        } else {
            self.discard(digest);
            None
        }
    }

    /// Drops a blob that turned out to be damaged.
    pub fn discard(&self, digest: &Digest) {
        if let Err(error) = fs::remove_file(self.path(digest))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%digest, %error, "cannot remove a damaged blob");
        }
    }

    /// Finds the blob or begins to fetch it. Must run on a tokio runtime.
    pub fn obtain(
        &self,
        descriptor: &Descriptor,
        repository: &Arc<Repository>,
    ) -> Result<Blob, ImageError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up under the lock: a download is renamed into place before it leaves the map.
        if let Some(download) = running.get(&digest).and_then(Weak::upgrade)
            && !download.is_failed()
            && download.size() == size
        {
            return Ok(Blob::Arriving {
                download,
                joined: true,
            });
        }
        if let Some(file) = self.find(&digest, size) {
            let file = Arc::new(file);
            return Ok(Blob::Cached { digest, size, file });
        }
        running.retain(|_, download| download.strong_count() > 0);
        let download = Arc::new(Download::start(
            Arc::clone(repository),
            digest,
            size,
            self.new_file()?,
            self.path(&digest),
            Arc::clone(&self.permits),
        ));
        running.insert(digest, Arc::downgrade(&download));
        Ok(Blob::Arriving {
            download,
            joined: false,
        })
    }

    /// All bytes of a small blob, checked: a manifest or configuration.
    pub async fn read_whole(
        &self,
        descriptor: &Descriptor,
        repository: &Arc<Repository>,
    ) -> Result<Vec<u8>, ImageError> {
        for _ in 0..ATTEMPTS {
            match self.obtain(descriptor, repository)? {
                Blob::Cached { digest, file, .. } => {
                    let path = self.path(&digest);
                    let bytes = read_all(&*file).map_err(|e| ImageError::io("read", &path, e))?;
                    if Digest::of(&bytes) == digest {
                        return Ok(bytes);
                    }
                    tracing::warn!(%digest, "a cached blob is damaged and is fetched again");
                    self.discard(&digest);
                }
                Blob::Arriving { download, joined } => match download.finished().await {
                    Ok(()) => {
                        let path = self.path(&descriptor.digest);
                        let arrived = Following::new(&download, Arc::default());
                        return read_all(arrived).map_err(|e| ImageError::io("read", path, e));
                    }
                    // Another pull's failure says nothing about ours.
                    Err(_) if joined => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Err(self.unreadable(&descriptor.digest))
    }

    /// For a blob that cannot be had though each attempt seemed to succeed.
    pub fn unreadable(&self, digest: &Digest) -> ImageError {
        let cause = io::Error::new(io::ErrorKind::InvalidData, "it is damaged again and again");
        ImageError::io("read", self.path(digest), cause)
    }

    pub fn new_file(&self) -> Result<NamedTempFile, ImageError> {
        tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&self.staging)
            .map_err(|error| ImageError::io("create a file in", &self.staging, error))
    }

    /// Number and bytes of all cached blobs, which are removed unless `dry_run`. Who reads one
    /// has it open and is not disturbed.
    pub fn prune(&self, dry_run: bool) -> Result<(u64, u64), ImageError> {
        remove_files(&self.directory, dry_run, |_| false)
    }
}

fn read_all(mut source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Number and bytes of the files in `directory` that `keep` does not keep.
pub(crate) fn remove_files(
    directory: &Path,
    dry_run: bool,
    keep: impl Fn(&str) -> bool,
) -> Result<(u64, u64), ImageError> {
    let failed = |error| ImageError::io("list", directory, error);
    let (mut count, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(&keep) {
            continue;
        }
        // It may go while we look: another prune, or a damaged blob discarded.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let path = entry.path();
        if !dry_run {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                outcome => outcome.map_err(|error| ImageError::io("remove", path, error))?,
            }
        }
        count += 1;
        // Allocated, since bases are sparse.
        bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    }
    Ok((count, bytes))
}
