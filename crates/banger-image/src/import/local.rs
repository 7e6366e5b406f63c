//! Images that a client streams: archives, and bare root file systems.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncRead;

use super::base::{Layers, Source, StagedFile, new_file, write_single};
use super::feed::{Fed, pair};
use super::{Images, Imported};
use crate::archive::{Selected, Spool, select_docker, select_oci, spool};
use crate::config::{ImageConfig, ImageDocument};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layers::base_digest;
use crate::manifest::Descriptor;
use crate::progress::Progress;
use crate::registry::check_document;

const TICK: Duration = Duration::from_millis(100);

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI layout as a tar archive.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
    /// The root file system itself as a tar archive: one layer, no configuration.
    RootfsTar,
}

/// A root file system that is written but not published: its source may yet say that it failed.
pub struct StagedRootfs<'a> {
    images: &'a Images,
    staged: StagedFile,
    base_digest: Digest,
    config: ImageConfig,
    source: String,
}

impl Images {
    /// Imports an archive. `source` is what it is called in messages and in the result; `tag`
    /// selects one of several images.
    pub async fn import_archive(
        &self,
        kind: ArchiveKind,
        tag: Option<&str>,
        source: &str,
        stream: &mut (impl AsyncRead + Unpin),
        progress: &Progress,
    ) -> Result<Imported, ImageError> {
        if kind == ArchiveKind::RootfsTar {
            let staged = self
                .stage_rootfs(ImageConfig::default(), source, stream, progress)
                .await?;
            return staged.publish().await;
        }
        let spooled = self.spool(source, stream, progress).await?;
        let platform = &self.options.platform;
        let selected = match kind {
            ArchiveKind::DockerArchive => select_docker(source, &spooled, tag),
            _ => select_oci(source, &spooled, tag, platform),
        }?;
        let document = ImageDocument::parse(&selected.config)
            .map_err(|error| ImageError::invalid(source, error))?;
        check_document(source, &document, selected.layers.len(), platform)?;
        let files = self.keep_layers(&spooled, &selected)?;
        // Nothing but the layers is needed any more.
        drop(spooled);
        let layers: Vec<_> = selected.layers.into_iter().zip(document.diff_ids).collect();
        let layers = Layers {
            what: source,
            layers: &layers,
            source: Source::Spooled(&files),
        };
        let base = self.base_of(&layers, progress).await?;
        Ok(Imported {
            base: self.base_path(&base.digest),
            base_digest: base.digest,
            size: base.size,
            manifest_digest: selected.manifest_digest,
            config: document.config,
            source: source.to_owned(),
            lease: base.lease,
        })
    }

    /// Writes the base of a root file system given as a tar archive, plain or compressed. It gets
    /// its name with [`StagedRootfs::publish`]; dropped before that, nothing of it remains.
    pub async fn stage_rootfs(
        &self,
        config: ImageConfig,
        source: &str,
        stream: &mut (impl AsyncRead + Unpin),
        progress: &Progress,
    ) -> Result<StagedRootfs<'_>, ImageError> {
        let (file, path) = new_file(&self.staging)?.into_parts();
        let limits = self.options.limits.clone();
        let (what, place) = (source.to_owned(), path.to_path_buf());
        let write = move |input| write_single(&file, &place, &what, limits, input);
        let diff_id = self
            .run_with_stream(source, stream, "import", progress, write)
            .await?;
        Ok(StagedRootfs {
            images: self,
            staged: StagedFile { path },
            base_digest: base_digest(&[diff_id]),
            config,
            source: source.to_owned(),
        })
    }

    async fn spool(
        &self,
        source: &str,
        stream: &mut (impl AsyncRead + Unpin),
        progress: &Progress,
    ) -> Result<Spool, ImageError> {
        let (what, staging) = (source.to_owned(), self.staging.clone());
        let max = self.options.max_download_bytes;
        let work = move |input| spool(&what, input, &staging, max);
        self.run_with_stream(source, stream, "receive", progress, work)
            .await
    }

    /// Runs `work` on a thread which reads the stream.
    async fn run_with_stream<T: Send + 'static>(
        &self,
        what: &str,
        stream: &mut (impl AsyncRead + Unpin),
        stage: &'static str,
        progress: &Progress,
        work: impl FnOnce(Fed) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let (feeder, fed) = pair();
        let count = feeder.count();
        let thread = tokio::task::spawn_blocking(move || work(fed));
        let feeding = async { tokio::join!(feeder.feed(stream), thread) };
        let (fed, outcome) = tokio::select! {
            both = feeding => both,
            never = tell(what, stage, &count, progress) => match never {},
        };
        progress.bytes(stage, what, count.load(Ordering::Relaxed), None);
        let outcome = outcome
            .map_err(|error| ImageError::io("write", &self.staging, io::Error::other(error)))?;
        match (outcome, fed) {
            // The source's own words say more than the thread's.
            (Err(ImageError::SourceBroken { what, .. }), Err(source)) => {
                Err(ImageError::SourceBroken { what, source })
            }
            (outcome, _) => outcome,
        }
    }

    /// Moves the layers into the cache and opens them.
    fn keep_layers(
        &self,
        spooled: &Spool,
        selected: &Selected,
    ) -> Result<Vec<Arc<File>>, ImageError> {
        let mut files = Vec::with_capacity(selected.layers.len());
        for Descriptor { digest, .. } in &selected.layers {
            let path = spooled.path(digest);
            let kept = self.blobs.path(digest);
            let found = Arc::new(open_either(&path, &kept)?);
            // The same layer may be in an image twice; then it is moved already.
            match std::fs::rename(&path, &kept) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::io("create", kept, error));
                }
                _ => files.push(found),
            }
        }
        Ok(files)
    }
}

fn open_either(path: &Path, moved: &Path) -> Result<File, ImageError> {
    File::open(path)
        .or_else(|_| File::open(moved))
        .map_err(|error| ImageError::io("open", path, error))
}

async fn tell(
    what: &str,
    stage: &'static str,
    count: &Arc<AtomicU64>,
    progress: &Progress,
) -> std::convert::Infallible {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        progress.bytes(stage, what, count.load(Ordering::Relaxed), None);
    }
}

impl StagedRootfs<'_> {
    /// Gives the base its name, unless it is there already.
    pub async fn publish(self) -> Result<Imported, ImageError> {
        let base = self.images.adopt(self.base_digest, self.staged).await?;
        Ok(Imported {
            base: self.images.base_path(&base.digest),
            base_digest: base.digest,
            size: base.size,
            manifest_digest: None,
            config: self.config,
            source: self.source,
            lease: base.lease,
        })
    }
}
