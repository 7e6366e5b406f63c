//! From layers to a published base file.
//!
//! ```text
//!  blobs: cached, or arriving ──► BaseWriter ──► staging/base-XXXX ──► fsync, rename ──► bases/
//!         (all are fetched at once, each is read while it arrives)
//! ```
//!
//! A thread writes; the async side watches, reports progress, and stops the thread when it is
//! dropped. Nothing is published before every digest was found right.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::{NamedTempFile, TempPath};

use crate::blobs::{ATTEMPTS, Blob, Blobs, Following, Verified};
use crate::decompress::{Compression, StreamError};
use crate::digest::Digest;
use crate::error::{Corruption, ImageError, ImageErrorKind, InvalidImage};
use crate::layers::{BaseError, BaseWriter};
use crate::limits::Limits;
use crate::manifest::Descriptor;
use crate::progress::Progress;
use crate::registry::Repository;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// A base in the staging directory. Dropping it removes the file.
pub(super) struct StagedFile {
    pub path: TempPath,
}

/// The layers of one image and where they come from.
pub(super) struct Layers<'a> {
    pub what: &'a str,
    /// Bottom first, with the digest of each once uncompressed.
    pub layers: &'a [(Descriptor, Digest)],
    pub source: Source<'a>,
}

pub(super) enum Source<'a> {
    Repository(&'a Arc<Repository>),
    /// In the cache and open already, one file for each layer.
    Spooled(&'a [Arc<File>]),
}

/// Writes the base of `layers`. A damaged blob in the cache, or another pull's failure, is no
/// failure of ours: the work begins again without it.
pub(super) async fn write_base(
    blobs: &Blobs,
    staging: &Path,
    limits: &Limits,
    layers: &Layers<'_>,
    progress: &Progress,
) -> Result<StagedFile, ImageError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match attempt(blobs, staging, limits, layers, progress).await {
            Ok(staged) => return Ok(staged),
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::Again(digest)) => last = Some(digest),
        }
    }
    let digest = last.unwrap_or_else(|| Digest::of(b""));
    Err(blobs.unreadable(&digest))
}

enum Failed {
    ForGood(ImageError),
    /// Because of this blob; it is to be got anew.
    Again(Digest),
}

impl From<ImageError> for Failed {
    fn from(error: ImageError) -> Failed {
        Failed::ForGood(error)
    }
}

async fn attempt(
    blobs: &Blobs,
    staging: &Path,
    limits: &Limits,
    layers: &Layers<'_>,
    progress: &Progress,
) -> Result<StagedFile, Failed> {
    let sources = layers
        .layers
        .iter()
        .enumerate()
        .map(|(number, (descriptor, _))| obtain(blobs, layers, number, descriptor))
        .collect::<Result<Vec<_>, _>>()?;
    let stop = Stop::default();
    let inputs = sources
        .iter()
        .zip(layers.layers)
        .map(|(blob, (_, diff_id))| (open(blob, &stop.0), *diff_id))
        .collect::<Vec<_>>();
    let staged = new_file(staging)?;
    let (file, path) = staged.into_parts();
    let mut thread = tokio::task::spawn_blocking({
        let limits = limits.clone();
        move || write_layers(&file, limits, inputs)
    });
    let mut tick = tokio::time::interval(TICK);
    let written = loop {
        tokio::select! {
            written = &mut thread => break written,
            _ = tick.tick() => report(layers.what, &sources, progress),
        }
    };
    report(layers.what, &sources, progress);
    let written =
        written.map_err(|error| ImageError::io("write", &path, io::Error::other(error)))?;
    if let Err((number, error)) = written {
        let error = image_error(layers.what, number, &path, error);
        return Err(match sources.get(number) {
            Some(blob) => explain(blobs, blob, error).await,
            None => Failed::ForGood(error),
        });
    }
    // The digests of the uncompressed layers were right, so these are too, or are about to be
    // found wrong in bytes that no decompressor looked at.
    for blob in &sources {
        if let Blob::Arriving { download, joined } = blob
            && let Err(error) = download.finished().await
        {
            return Err(if *joined {
                Failed::Again(download.digest())
            } else {
                Failed::ForGood(error)
            });
        }
    }
    Ok(StagedFile { path })
}

fn obtain(
    blobs: &Blobs,
    layers: &Layers<'_>,
    number: usize,
    wanted: &Descriptor,
) -> Result<Blob, ImageError> {
    let Descriptor { digest, size, .. } = *wanted;
    match layers.source {
        Source::Repository(repository) => blobs.obtain(wanted, repository),
        Source::Spooled(files) => match files.get(number) {
            Some(file) => Ok(Blob::Cached {
                digest,
                size,
                file: Arc::clone(file),
            }),
            None => Err(blobs.unreadable(&digest)),
        },
    }
}

fn open(blob: &Blob, cancelled: &Arc<AtomicBool>) -> Box<dyn Read + Send> {
    let cancelled = Arc::clone(cancelled);
    match blob {
        Blob::Cached { digest, file, .. } => {
            Box::new(Verified::new(Arc::clone(file), *digest, cancelled))
        }
        Blob::Arriving { download, .. } => Box::new(Following::new(download, cancelled)),
    }
}

/// Why a layer could not be used: the blob's own fault, if it has one, goes before what its bytes
/// looked like.
async fn explain(blobs: &Blobs, blob: &Blob, error: ImageError) -> Failed {
    if matches!(
        error.kind(),
        ImageErrorKind::NoSpace | ImageErrorKind::TooLarge
    ) {
        return Failed::ForGood(error);
    }
    match blob {
        Blob::Arriving { download, joined } => match download.finished().await {
            Err(_) if *joined => Failed::Again(download.digest()),
            Err(cause) => Failed::ForGood(cause),
            Ok(()) => Failed::ForGood(error),
        },
        Blob::Cached { digest, size, .. } => {
            let (digest, size, path) = (*digest, *size, blobs.path(digest));
            let intact = tokio::task::spawn_blocking(move || {
                File::open(path).and_then(Digest::of_reader).ok() == Some((digest, size))
            });
            if intact.await.unwrap_or(false) {
                return Failed::ForGood(error);
            }
            tracing::warn!(%digest, "a cached blob is damaged and is fetched again");
            blobs.discard(&digest);
            Failed::Again(digest)
        }
    }
}

/// Tells the thread to stop when the future is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Input = (Box<dyn Read + Send>, Digest);

/// Runs on a thread. The error names the layer by its place from the bottom.
fn write_layers(file: &File, limits: Limits, inputs: Vec<Input>) -> Result<(), (usize, BaseError)> {
    let count = inputs.len();
    let mut writer = BaseWriter::new(file, limits);
    for (number, (input, diff_id)) in inputs.into_iter().enumerate() {
        writer
            .add_layer(input, Compression::Auto, Some(diff_id))
            .map_err(|error| (number, error))?;
    }
    writer
        .finish()
        .and_then(|_| file.sync_all().map_err(BaseError::Write))
        .map_err(|error| (count, error))
}

/// Writes a base of one layer whose digest is not known before; returns it.
pub(super) fn write_single(
    file: &File,
    path: &Path,
    what: &str,
    limits: Limits,
    input: impl Read + Send,
) -> Result<Digest, ImageError> {
    let mut writer = BaseWriter::new(file, limits);
    let layer = writer.add_layer(input, Compression::Auto, None);
    layer
        .and_then(|layer| writer.finish().map(|_| layer.diff_id))
        .and_then(|digest| file.sync_all().map_err(BaseError::Write).map(|()| digest))
        .map_err(|error| image_error(what, 0, path, error))
}

fn image_error(what: &str, number: usize, path: &Path, error: BaseError) -> ImageError {
    let what = || what.to_owned();
    match error {
        BaseError::Stream(StreamError::Read(source)) => ImageError::SourceBroken {
            what: format!("layer {} of {}", number + 1, what()),
            source,
        },
        BaseError::Stream(StreamError::TooLong { max }) => ImageError::TooLarge {
            what: format!("layer {} of {}", number + 1, what()),
            limit: "max_layer_bytes",
            max,
        },
        BaseError::Stream(StreamError::Thread(source)) => ImageError::io("write", path, source),
        BaseError::Limit { what: counted, max } => ImageError::TooLarge {
            what: what(),
            limit: match counted {
                "bytes" => "max_base_bytes",
                "entries" | "files" | "names" => "max_entries",
                _ => "max_metadata_bytes",
            },
            max,
        },
        BaseError::WrongDiffId { expected, found } => ImageError::corrupt(
            format!("layer {} of {}", number + 1, what()),
            Corruption::DiffId { expected, found },
        ),
        BaseError::Write(source) => ImageError::io("write", path, source),
        error @ (BaseError::Stream(_)
        | BaseError::Tar { .. }
        | BaseError::Entry { .. }
        | BaseError::Poisoned) => ImageError::invalid(
            what(),
            InvalidImage::Layer {
                number: number + 1,
                reason: with_causes(&error),
            },
        ),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn report(what: &str, sources: &[Blob], progress: &Progress) {
    let (mut done, mut total) = (0, 0);
    for source in sources {
        let (have, size) = match source {
            Blob::Cached { size, .. } => (*size, *size),
            Blob::Arriving { download, .. } => (download.arrived(), download.size()),
        };
        done += have;
        total += size;
    }
    let stage = if done < total { "download" } else { "import" };
    progress.bytes(stage, what, done, Some(total));
}

pub(super) fn new_file(staging: &Path) -> Result<NamedTempFile, ImageError> {
    tempfile::Builder::new()
        .prefix("base-")
        .tempfile_in(staging)
        .map_err(|error| ImageError::io("create a file in", staging, error))
}

/// Gives a complete, synced base its name. Everybody may read it: a VMM runs as another user, and
/// the directory above keeps strangers out.
pub(super) fn publish(staged: StagedFile, destination: &Path) -> Result<u64, ImageError> {
    let failed = |error| ImageError::io("create", destination, error);
    let metadata = fs::metadata(&staged.path).map_err(failed)?;
    fs::set_permissions(&staged.path, Permissions::from_mode(0o444)).map_err(failed)?;
    staged
        .path
        .persist(destination)
        .map_err(|error| failed(error.error))?;
    let directory = destination
        .parent()
        .map_or_else(PathBuf::new, PathBuf::from);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)?;
    Ok(metadata.len())
}
