//! Images of one root directory: from a reference or a stream to a base file that VMs share.
//!
//! ```text
//! ROOT/blobs/sha256/<hex>    what was downloaded, by digest; may be removed at any time
//! ROOT/bases/<hex>.erofs     complete bases, read-only, by what they are made of
//! ROOT/staging/              work in progress; what is left of a killed import is swept at start
//! ```
//!
//! A base is named by its layers and the writer's version, so it is known before it is made: one
//! that exists is never written again, and of two who want the same one only one works.
//!
//! Limits: which names images have, and who uses a base, is recorded elsewhere. One process uses
//! a root at a time.

mod base;
mod feed;
mod keyed;
mod local;
mod prune;

use std::fs;
use std::path::{Path, PathBuf};

use crate::blobs::Blobs;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layers::base_digest;
use crate::limits::Limits;
use crate::manifest::Descriptor;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Credentials, FetchPolicy, Repository, Transport, resolve};

use base::{Layers, Source, StagedFile, publish, write_base};
use keyed::{KeyedLocks, Leases};

pub use keyed::BaseLease;
pub use local::{ArchiveKind, StagedRootfs};
pub use prune::Pruned;

/// What imports may cost and how patient they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    pub limits: Limits,
    /// Compressed bytes of one image: all layers of a pull, all of an archive.
    pub max_download_bytes: u64,
    pub fetch: FetchPolicy,
    /// What images must run on.
    pub platform: Platform,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            limits: Limits::default(),
            max_download_bytes: 64 << 30,
            fetch: FetchPolicy::default(),
            platform: Platform::host(),
        }
    }
}

/// An image that is ready to be booted.
#[derive(Debug)]
pub struct Imported {
    /// The base file.
    pub base: PathBuf,
    pub base_digest: Digest,
    /// Apparent bytes of the base file.
    pub size: u64,
    /// Digest of what the reference or tag names; `None` where the source has no manifest.
    pub manifest_digest: Option<Digest>,
    pub config: ImageConfig,
    /// The canonical reference, or what the caller called the stream.
    pub source: String,
    /// Keeps the base from being pruned until its use is recorded.
    pub lease: BaseLease,
}

/// The image root.
pub struct Images {
    bases: PathBuf,
    staging: PathBuf,
    blobs: Blobs,
    transport: Transport,
    options: ImageOptions,
    locks: KeyedLocks,
    leases: Leases,
}

impl Images {
    /// Makes the directories that are missing.
    pub fn open(root: &Path, options: ImageOptions) -> Result<Images, ImageError> {
        let blobs = root.join("blobs").join("sha256");
        let bases = root.join("bases");
        let staging = root.join("staging");
        for directory in [&blobs, &bases, &staging] {
            fs::create_dir_all(directory)
                .map_err(|error| ImageError::io("create the directory", directory, error))?;
        }
        Ok(Images {
            blobs: Blobs::new(blobs, staging.clone(), options.fetch.parallel),
            transport: Transport::new(&options.fetch),
            bases,
            staging,
            options,
            locks: KeyedLocks::default(),
            leases: Leases::default(),
        })
    }

    /// The file of a base, whether it exists or not.
    pub fn base_path(&self, digest: &Digest) -> PathBuf {
        self.bases.join(format!("{}.erofs", digest.hex()))
    }

    /// Pulls an image. Dropping the future stops the work and removes what it left half done;
    /// complete blobs stay in the cache.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Credentials,
        progress: &Progress,
    ) -> Result<Imported, ImageError> {
        let source = reference.to_string();
        progress.stage("resolve", &source);
        let repository =
            Repository::open(&self.transport, &self.options.fetch, reference, credentials)?;
        let resolved = resolve(&repository, &self.blobs, reference, &self.options.platform).await?;
        let diff_ids = resolved.document.diff_ids;
        let layers: Vec<_> = resolved.manifest.layers.into_iter().zip(diff_ids).collect();
        self.check_download(&source, layers.iter().map(|(layer, _)| layer))?;
        let layers = Layers {
            what: &source,
            layers: &layers,
            source: Source::Repository(&repository),
        };
        let base = self.base_of(&layers, progress).await?;
        Ok(Imported {
            base: self.base_path(&base.digest),
            base_digest: base.digest,
            size: base.size,
            manifest_digest: Some(resolved.digest),
            config: resolved.document.config,
            source,
            lease: base.lease,
        })
    }

    fn check_download<'a>(
        &self,
        what: &str,
        layers: impl Iterator<Item = &'a Descriptor>,
    ) -> Result<(), ImageError> {
        let max = self.options.max_download_bytes;
        let total = layers.fold(0_u64, |total, layer| total.saturating_add(layer.size));
        if total > max {
            return Err(ImageError::TooLarge {
                what: what.to_owned(),
                limit: "max_download_bytes",
                max,
            });
        }
        Ok(())
    }

    /// The base of these layers, made now unless it is there.
    async fn base_of(&self, layers: &Layers<'_>, progress: &Progress) -> Result<Base, ImageError> {
        let diff_ids: Vec<_> = layers.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let digest = base_digest(&diff_ids);
        // Taken before the look, so that it cannot go between the two.
        let lease = self.leases.take(digest);
        let _turn = self.locks.lock(digest).await;
        let size = match self.existing(&digest)? {
            Some(size) => size,
            None => {
                let limits = &self.options.limits;
                let staged =
                    write_base(&self.blobs, &self.staging, limits, layers, progress).await?;
                publish(staged, &self.base_path(&digest))?
            }
        };
        Ok(Base {
            digest,
            size,
            lease,
        })
    }

    /// Like [`Images::base_of`], for a base that is written already.
    async fn adopt(&self, digest: Digest, staged: StagedFile) -> Result<Base, ImageError> {
        let lease = self.leases.take(digest);
        let _turn = self.locks.lock(digest).await;
        let size = match self.existing(&digest)? {
            Some(size) => size,
            None => publish(staged, &self.base_path(&digest))?,
        };
        Ok(Base {
            digest,
            size,
            lease,
        })
    }

    fn existing(&self, digest: &Digest) -> Result<Option<u64>, ImageError> {
        let path = self.base_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("look at", path, error)),
        }
    }
}

/// A base that exists.
struct Base {
    digest: Digest,
    size: u64,
    lease: BaseLease,
}
