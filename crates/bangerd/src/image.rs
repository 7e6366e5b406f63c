//! Images: names for bases, and the way from a word to a base.
//!
//! ```text
//! word ─► local name ─► catalog ─► reference          (wanted.rs)
//!             │            │           │
//!             │            └─ mmdebstrap, registry ─► banger_image ─► base file
//!             └─────────────── record in the store ◄──────┘
//! ```
//!
//! A name belongs to its source: the same source again moves the name to what it means now, another
//! source is refused. Deleting a name removes the base file unless another name has it; VMs hold
//! links of their own, so their bases go with them.

mod failure;
mod turns;
mod wanted;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use banger_image::catalog::{Catalog, ImageEntry, recipe};
use banger_image::config::ImageConfig as LibraryConfig;
use banger_image::digest::Digest;
use banger_image::error::ImageErrorKind;
use banger_image::import::Images as Library;
use banger_image::import::{ArchiveKind as LibraryKind, ImageOptions, Imported};
use banger_image::limits::Limits;
use banger_image::registry::{Credentials, FetchPolicy};
use banger_protocol::api::image::{
    ArchiveKind, Image, ImageConfig, ImportImage, PruneReport, RegistryCredentials,
};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{ImageName, KernelName};
use tempfile::NamedTempFile;
use time::OffsetDateTime;

use crate::config::Config;
use crate::operation::Context;
use crate::progress;
use crate::request_body::reader;
use crate::store::Store;
use crate::store::images::ImageRecord;
use crate::vm::spec::ImageSource;
use turns::Turns;
pub use wanted::{Source, Wanted};

/// The images of one daemon.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    library: Library,
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    root: PathBuf,
    /// Names of the catalog that are being built.
    builds: Turns,
    /// Held, on blocking threads only, by whoever gives a base its name, and by whoever removes
    /// bases that have none: a base named in between would go as well.
    naming: Mutex<()>,
}

/// An image whose base cannot vanish while this lives.
pub struct ReadyImage {
    pub record: ImageRecord,
    /// A link to the base, removed with this.
    base: NamedTempFile<()>,
}

impl ReadyImage {
    pub fn source(&self) -> ImageSource {
        ImageSource {
            name: self.record.name.to_string(),
            digest: self.record.digest.clone(),
            base_digest: self.record.base_digest.clone(),
            base: self.base.path().to_owned(),
            config: self.record.config.clone(),
        }
    }
}

/// What the configuration says about imports.
pub fn options(config: &Config) -> ImageOptions {
    let default = FetchPolicy::default();
    ImageOptions {
        limits: Limits {
            max_entries: config.max_entries,
            max_layer_bytes: config.max_layer_bytes.0,
            max_base_bytes: config.max_base_bytes.0,
            max_metadata_bytes: config.max_metadata_bytes.0,
        },
        max_download_bytes: config.max_download_bytes.0,
        fetch: FetchPolicy {
            parallel: usize::try_from(config.parallel_downloads).unwrap_or(usize::MAX),
            attempts: config.registry_attempts,
            connect_timeout: default.connect_timeout.min(config.registry_timeout),
            read_timeout: config.registry_timeout,
            ..default
        },
        ..ImageOptions::default()
    }
}

impl Images {
    /// Opens the image root, and clears what killed work left: files half written, and bases that
    /// got no name.
    ///
    /// # Errors
    /// The directories cannot be made, read or cleared.
    pub fn open(
        state: &Path,
        options: ImageOptions,
        store: Arc<Store>,
        catalog: Arc<Catalog>,
    ) -> Result<Images, ApiError> {
        let root = state.join("images");
        let library = Library::open(&root, options).map_err(|error| failure::image(&error))?;
        library.sweep().map_err(|error| failure::image(&error))?;
        let images = Images {
            shared: Arc::new(Shared {
                library,
                store,
                catalog,
                root,
                builds: Turns::default(),
                naming: Mutex::default(),
            }),
        };
        images.remove_unnamed()?;
        Ok(images)
    }

    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ApiError> {
        let records = self.shared.store.images()?;
        records
            .into_iter()
            .map(|record| self.with_users(record))
            .collect()
    }

    /// # Errors
    /// There is none, or the store cannot be read.
    pub fn show(&self, name: &ImageName) -> Result<Image, ApiError> {
        let record = self
            .shared
            .store
            .image(name)?
            .ok_or_else(|| not_found(name))?;
        self.with_users(record)
    }

    fn with_users(&self, record: ImageRecord) -> Result<Image, ApiError> {
        let users = self.shared.store.vms_of_base(&record.base_digest)?;
        Ok(record.into_image(users))
    }

    /// Removes a name, and the base file unless another name has it.
    ///
    /// # Errors
    /// There is none, or the store or the file cannot be changed.
    pub async fn delete(&self, name: &ImageName) -> Result<(), ApiError> {
        let this = self.clone();
        let name = name.clone();
        blocking(move || {
            let _naming = this.naming();
            let store = &this.shared.store;
            let record = store.image(&name)?.ok_or_else(|| not_found(&name))?;
            if !store.remove_image(&name)? {
                return Err(not_found(&name));
            }
            this.remove_unless_named(&record.base_digest)
        })
        .await
    }

    /// Removes cached layers, and base files that no image names.
    ///
    /// # Errors
    /// A directory cannot be read or changed.
    pub async fn prune(&self, dry_run: bool) -> Result<PruneReport, ApiError> {
        let this = self.clone();
        blocking(move || {
            let _naming = this.naming();
            let named = this.named()?;
            let pruned = this
                .shared
                .library
                .prune(&named, dry_run)
                .map_err(|error| failure::image(&error))?;
            Ok(PruneReport {
                blobs: pruned.blobs,
                bases: pruned.bases,
                bytes: pruned.bytes,
            })
        })
        .await
    }

    /// Pulls or builds what is wanted and gives it a name.
    ///
    /// # Errors
    /// It cannot be had, or the name belongs to another source.
    pub async fn pull(
        &self,
        wanted: Wanted,
        name: Option<ImageName>,
        kernel: Option<KernelName>,
        credentials: Option<RegistryCredentials>,
        context: &Context,
    ) -> Result<Image, ApiError> {
        let record = self
            .pull_record(wanted, name, kernel, credentials, context)
            .await?;
        self.with_users(record)
    }

    async fn pull_record(
        &self,
        wanted: Wanted,
        name: Option<ImageName>,
        kernel: Option<KernelName>,
        credentials: Option<RegistryCredentials>,
        context: &Context,
    ) -> Result<ImageRecord, ApiError> {
        let Some(source) = wanted.source else {
            return Err(ApiError::new(
                ErrorKind::NotFound,
                format!(
                    "there is no image {}, and it is no reference either",
                    wanted.local.map(String::from).unwrap_or_default()
                ),
            )
            .hint("banger image list shows what is here"));
        };
        let name = match name {
            Some(name) => name,
            None => source.default_name()?,
        };
        // Before anything is fetched for a name that cannot be had; decided again at the end.
        may_take(
            &name,
            &source.text(),
            self.shared.store.image(&name)?.as_ref(),
        )?;
        let text = source.text();
        let began = OffsetDateTime::now_utc();
        // The library fetches what two want of a registry once; a build is ours to do once.
        let build = match &source {
            Source::Catalog(_) => {
                let turn = async { Ok(self.shared.builds.take(&text).await) };
                Some(context.until_cancelled(turn).await?)
            }
            Source::Reference(_) => None,
        };
        if build.is_some_and(|turn| turn.waited)
            && let Some(record) = self.shared.store.image(&name)?
            && record.source == text
            && record.created_at >= began
            && (kernel.is_none() || record.kernel == kernel)
        {
            return Ok(record);
        }
        let imported = context
            .until_cancelled(self.fetch(source, credentials, context))
            .await?;
        context.stage("publish", name.as_str());
        self.record(name, text, kernel, imported).await
    }

    async fn fetch(
        &self,
        source: Source,
        credentials: Option<RegistryCredentials>,
        context: &Context,
    ) -> Result<Imported, ApiError> {
        let progress = progress::of(context);
        match source {
            Source::Catalog(entry) => self.build(&entry, context).await,
            Source::Reference(reference) => self
                .shared
                .library
                .pull(&reference, credentials_of(credentials), &progress)
                .await
                .map_err(|error| failure::image(&error)),
        }
    }

    /// Builds an image of the catalog. The base gets its name only after the builder said that all
    /// went well: a stream that ends is no proof.
    async fn build(&self, entry: &ImageEntry, context: &Context) -> Result<Imported, ApiError> {
        let progress = progress::of(context);
        let mut stream = recipe::open(entry, &progress)
            .await
            .map_err(|error| failure::recipe(&error))?;
        let config = LibraryConfig {
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ],
            ..LibraryConfig::default()
        };
        let staged = self
            .shared
            .library
            .stage_rootfs(config, &entry.name, &mut stream, &progress)
            .await;
        let ask_builder = match &staged {
            Ok(_) => true,
            // A builder that failed half way leaves a broken archive, and its own words say more.
            Err(error) => matches!(
                error.kind(),
                ImageErrorKind::InvalidImage | ImageErrorKind::SourceBroken
            ),
        };
        if ask_builder {
            stream
                .finish()
                .await
                .map_err(|error| failure::recipe(&error))?;
        }
        let staged = staged.map_err(|error| failure::image(&error))?;
        staged
            .publish()
            .await
            .map_err(|error| failure::image(&error))
    }

    /// Imports an archive that the client streams.
    ///
    /// # Errors
    /// The archive is not what it should be, or the name belongs to another source.
    pub async fn import(
        &self,
        request: ImportImage,
        body: Body,
        context: &Context,
    ) -> Result<Image, ApiError> {
        may_take(
            &request.name,
            &request.source,
            self.shared.store.image(&request.name)?.as_ref(),
        )?;
        let kind = match request.kind {
            ArchiveKind::OciArchive => LibraryKind::OciArchive,
            ArchiveKind::DockerArchive => LibraryKind::DockerArchive,
            ArchiveKind::Rootfs => LibraryKind::RootfsTar,
        };
        let progress = progress::of(context);
        let mut stream = reader(body, context.token());
        let imported = context
            .until_cancelled(async {
                self.shared
                    .library
                    .import_archive(
                        kind,
                        request.tag.as_deref(),
                        &request.source,
                        &mut stream,
                        &progress,
                    )
                    .await
                    .map_err(|error| failure::image(&error))
            })
            .await?;
        context.stage("publish", request.name.as_str());
        let record = self
            .record(request.name, request.source, request.kernel, imported)
            .await?;
        self.with_users(record)
    }

    /// An image to make a VM of, pulled where it is not there.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn ensure(
        &self,
        wanted: Wanted,
        credentials: Option<RegistryCredentials>,
        context: &Context,
    ) -> Result<ReadyImage, ApiError> {
        if let Some(record) = self.here(&wanted)?
            && let Some(ready) = self.hold(record).await?
        {
            return Ok(ready);
        }
        let record = self
            .pull_record(wanted, None, None, credentials, context)
            .await?;
        let name = record.name.clone();
        self.hold(record).await?.ok_or_else(|| {
            ApiError::new(
                ErrorKind::NotFound,
                format!("the image {name} was deleted while it was wanted"),
            )
        })
    }

    /// The record that a word means, where there is one: by name, else by source.
    fn here(&self, wanted: &Wanted) -> Result<Option<ImageRecord>, ApiError> {
        if let Some(name) = &wanted.local
            && let Some(record) = self.shared.store.image(name)?
        {
            return Ok(Some(record));
        }
        let Some(source) = &wanted.source else {
            return Ok(None);
        };
        let text = source.text();
        let records = self.shared.store.images()?;
        Ok(records.into_iter().find(|record| record.source == text))
    }

    /// Makes the base of a record stay; `None` where the file is gone.
    async fn hold(&self, record: ImageRecord) -> Result<Option<ReadyImage>, ApiError> {
        let this = self.clone();
        blocking(move || {
            let base = this
                .shared
                .library
                .base_path(&base_digest(&record.base_digest)?);
            let linked = tempfile::Builder::new()
                .prefix("held-")
                .make_in(this.shared.root.join("staging"), |path| {
                    std::fs::hard_link(&base, path)
                });
            match linked {
                Ok(base) => Ok(Some(ReadyImage { record, base })),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ApiError::new(
                    ErrorKind::Internal,
                    format!("cannot link {}: {error}", base.display()),
                )),
            }
        })
        .await
    }

    async fn record(
        &self,
        name: ImageName,
        source: String,
        kernel: Option<KernelName>,
        imported: Imported,
    ) -> Result<ImageRecord, ApiError> {
        let this = self.clone();
        blocking(move || {
            let base_digest = imported.base_digest.to_string();
            let mut record = ImageRecord {
                name,
                source,
                digest: imported
                    .manifest_digest
                    .map_or_else(|| base_digest.clone(), |digest| digest.to_string()),
                base_digest,
                size_bytes: imported.size,
                created_at: OffsetDateTime::now_utc(),
                kernel,
                config: config_of(imported.config),
            };
            // A name that moves keeps its kernel unless another is asked for.
            if record.kernel.is_none() {
                record.kernel = this
                    .shared
                    .store
                    .image(&record.name)?
                    .and_then(|before| before.kernel);
            }
            let _naming = this.naming();
            let mut replaced = None;
            this.shared.store.put_image(&record, |before| {
                may_take(&record.name, &record.source, before)?;
                replaced = before.map(|before| before.base_digest.clone());
                Ok::<_, ApiError>(())
            })?;
            drop(imported.lease);
            if let Some(replaced) = replaced {
                this.remove_unless_named(&replaced)?;
            }
            Ok(record)
        })
        .await
    }

    /// It guards no data, so a holder that panicked left nothing half changed.
    fn naming(&self) -> MutexGuard<'_, ()> {
        let naming = &self.shared.naming;
        naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self) -> Result<HashSet<Digest>, ApiError> {
        self.shared
            .store
            .images()?
            .iter()
            .map(|record| base_digest(&record.base_digest))
            .collect()
    }

    fn remove_unless_named(&self, digest: &str) -> Result<(), ApiError> {
        let digest = base_digest(digest)?;
        if !self.named()?.contains(&digest) {
            self.shared
                .library
                .remove_base(&digest)
                .map_err(|error| failure::image(&error))?;
        }
        Ok(())
    }

    /// What a kill between publication and record leaves behind.
    fn remove_unnamed(&self) -> Result<(), ApiError> {
        let bases = self.shared.root.join("bases");
        let entries = std::fs::read_dir(&bases).map_err(|error| {
            ApiError::new(
                ErrorKind::Internal,
                format!("cannot list {}: {error}", bases.display()),
            )
        })?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|name| name.strip_suffix(".erofs"))
                .and_then(|hex| Digest::from_hex(hex).ok());
            if let Some(digest) = digest {
                self.remove_unless_named(&digest.to_string())?;
            }
        }
        Ok(())
    }
}

/// Whether a name may be given to what comes from `source`.
fn may_take(name: &ImageName, source: &str, before: Option<&ImageRecord>) -> Result<(), ApiError> {
    match before {
        Some(before) if before.source != source => Err(ApiError::new(
            ErrorKind::AlreadyExists,
            format!(
                "the name {name} belongs to the image from {}",
                before.source
            ),
        )
        .hint("choose another name with --name, or delete that image")),
        _ => Ok(()),
    }
}

fn not_found(name: &ImageName) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("there is no image {name}"))
        .hint("banger image list shows what is here")
}

fn base_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error| {
        ApiError::new(
            ErrorKind::Internal,
            format!("the store holds a bad digest: {error}"),
        )
    })
}

fn credentials_of(credentials: Option<RegistryCredentials>) -> Credentials {
    match credentials {
        None => Credentials::Anonymous,
        Some(RegistryCredentials::Basic { username, password }) => {
            Credentials::Password { username, password }
        }
        Some(RegistryCredentials::IdentityToken { token }) => Credentials::IdentityToken { token },
    }
}

fn config_of(config: LibraryConfig) -> ImageConfig {
    ImageConfig {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: config.user,
        workdir: config.workdir,
        volumes: config.volumes,
        stop_signal: config.stop_signal,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ApiError::new(
                ErrorKind::Internal,
                format!("work on an image failed: {error}"),
            ))
        })
}
