//! Kernels: what is here, what could be, and the files a VM boots with.

mod failure;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use banger_image::catalog::Catalog;
use banger_image::initramfs;
use banger_image::kernel::import::{ImportRequest, import};
use banger_image::kernel::pull::{PullRequest, pull};
use banger_image::kernel::{self as library, KernelError, KernelStore};
use banger_protocol::api::kernel::{AvailableKernel, ImportKernel, Kernel, KernelList};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::KernelName;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::agent_program::AgentProgram;
use crate::operation::Context;
use crate::progress;
use crate::request_body::reader;
use crate::vm::spec::KernelSource;
pub(crate) use failure::failure;

/// The kernels of one daemon.
#[derive(Clone)]
pub struct Kernels {
    shared: Arc<Shared>,
}

struct Shared {
    store: KernelStore,
    catalog: Arc<Catalog>,
    /// Cache of assembled initramfs files.
    initramfs: PathBuf,
    agent: Arc<AgentProgram>,
    default: KernelName,
}

impl Kernels {
    pub fn new(
        state: &Path,
        catalog: Arc<Catalog>,
        agent: Arc<AgentProgram>,
        default: KernelName,
    ) -> Kernels {
        Kernels {
            shared: Arc::new(Shared {
                store: KernelStore::new(state.join("kernels")),
                catalog,
                initramfs: state.join("initramfs"),
                agent,
                default,
            }),
        }
    }

    /// Clears what killed work left. Only while no work goes on.
    ///
    /// # Errors
    /// A directory cannot be read or cleared.
    pub fn sweep(&self) -> Result<(), ApiError> {
        self.shared.store.sweep().map_err(failure)?;
        initramfs::sweep(&self.shared.initramfs).map_err(failure)
    }

    /// # Errors
    /// The directory cannot be read.
    pub async fn list(&self) -> Result<KernelList, ApiError> {
        let this = self.clone();
        blocking(move || {
            let here = this.shared.store.list().map_err(failure)?;
            let available = this
                .shared
                .catalog
                .kernels
                .iter()
                .filter_map(|entry| {
                    Some(AvailableKernel {
                        name: entry.name.as_str().parse().ok()?,
                        description: entry.description.clone(),
                        pulled: here.iter().any(|kernel| kernel.manifest.name == entry.name),
                    })
                })
                .collect();
            Ok(KernelList {
                kernels: here
                    .into_iter()
                    .map(|kernel| this.show_one(kernel))
                    .collect::<Result<_, _>>()?,
                available,
            })
        })
        .await
    }

    /// # Errors
    /// There is none, or its manifest is damaged.
    pub async fn show(&self, name: &KernelName) -> Result<Kernel, ApiError> {
        let this = self.clone();
        let name = library_name(name)?;
        blocking(move || {
            let kernel = this.shared.store.show(&name).map_err(failure)?;
            this.show_one(kernel)
        })
        .await
    }

    /// # Errors
    /// There is none, or it cannot be removed.
    pub async fn delete(&self, name: &KernelName) -> Result<(), ApiError> {
        let this = self.clone();
        let name = library_name(name)?;
        blocking(move || this.shared.store.delete(&name).map_err(failure)).await
    }

    /// Gets a kernel of the catalog.
    ///
    /// # Errors
    /// It is not in the catalog, or the pull fails.
    pub async fn pull(
        &self,
        name: &KernelName,
        force: bool,
        context: &Context,
    ) -> Result<Kernel, ApiError> {
        let pulled = self.pull_entry(name, force, context).await?;
        self.show_one(pulled)
    }

    async fn pull_entry(
        &self,
        name: &KernelName,
        force: bool,
        context: &Context,
    ) -> Result<library::Kernel, ApiError> {
        let entry = self
            .shared
            .catalog
            .kernel(name.as_str())
            .ok_or_else(|| self.not_in_catalog(name))?
            .clone();
        let request = PullRequest {
            entry,
            name: None,
            replace: force,
            imported_at: now()?,
        };
        let progress = progress::of(context);
        let pulled = context
            .until_cancelled(async {
                pull(&self.shared.store, request, &progress)
                    .await
                    .map_err(failure)
            })
            .await?;
        Ok(pulled.kernel)
    }

    /// Takes a kernel out of a tar archive.
    ///
    /// # Errors
    /// The archive has no usable kernel, or the name is taken.
    pub async fn import(
        &self,
        request: ImportKernel,
        body: Body,
        context: &Context,
    ) -> Result<Kernel, ApiError> {
        let name = library_name(&request.name)?;
        context.stage("import", request.name.as_str());
        let request = ImportRequest {
            source: name.to_string(),
            name,
            distro: request.distro.unwrap_or_default(),
            replace: request.force,
            imported_at: now()?,
            kernel_arguments: Vec::new(),
        };
        let progress = progress::of(context);
        let kernel = context
            .until_cancelled(async {
                import(
                    &self.shared.store,
                    request,
                    reader(body, context.token()),
                    &progress,
                )
                .await
                .map_err(failure)
            })
            .await?;
        self.show_one(kernel)
    }

    /// The files of a kernel, which is pulled where the catalog has it and this host does not.
    ///
    /// # Errors
    /// It is neither here nor in the catalog, or cannot be had; the agent is missing.
    pub async fn ensure(
        &self,
        name: &KernelName,
        context: &Context,
    ) -> Result<KernelSource, ApiError> {
        let here = {
            let this = self.clone();
            let name = library_name(name)?;
            blocking(move || this.shared.store.get(&name).map_err(failure)).await?
        };
        let kernel = match here {
            Some(kernel) => kernel,
            None => self.pull_entry(name, false, context).await?,
        };
        let this = self.clone();
        let name = name.clone();
        blocking(move || {
            let agent = this.shared.agent.get()?;
            let initramfs =
                initramfs::ensure(&this.shared.initramfs, &agent, &kernel).map_err(failure)?;
            Ok(KernelSource {
                name,
                sha256: kernel.manifest.sha256.clone(),
                kernel: kernel.vmlinux(),
                initramfs,
            })
        })
        .await
    }

    /// An initramfs with today's agent for the very kernel of this name and digest; `None` where
    /// that kernel has been replaced or deleted.
    ///
    /// # Errors
    /// The agent or the kernel cannot be read.
    pub async fn initramfs(
        &self,
        name: &KernelName,
        sha256: &str,
    ) -> Result<Option<PathBuf>, ApiError> {
        let this = self.clone();
        let name = library_name(name)?;
        let sha256 = sha256.to_owned();
        blocking(move || {
            let kernel = match this.shared.store.get(&name) {
                Ok(Some(kernel)) if kernel.manifest.sha256 == sha256 => kernel,
                // One that is damaged is of no use to a new VM, and no harm to an old one.
                Ok(_) | Err(KernelError::BadManifest { .. }) => return Ok(None),
                Err(error) => return Err(failure(error)),
            };
            let agent = this.shared.agent.get()?;
            initramfs::ensure(&this.shared.initramfs, &agent, &kernel)
                .map(Some)
                .map_err(failure)
        })
        .await
    }

    /// # Errors
    /// `not_found` where it is neither here nor in the catalog.
    pub async fn check_known(&self, name: &KernelName) -> Result<(), ApiError> {
        if self.shared.catalog.kernel(name.as_str()).is_some() {
            return Ok(());
        }
        let this = self.clone();
        let wanted = library_name(name)?;
        let here = blocking(move || this.shared.store.get(&wanted).map_err(failure)).await?;
        here.map(drop).ok_or_else(|| self.not_in_catalog(name))
    }

    fn not_in_catalog(&self, name: &KernelName) -> ApiError {
        let known: Vec<&str> = self
            .shared
            .catalog
            .kernels
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        ApiError::new(
            ErrorKind::NotFound,
            format!("there is no kernel {name}, neither here nor in the catalog"),
        )
        .hint(format!(
            "the catalog has {}; banger kernel import takes one of your own",
            known.join(", ")
        ))
    }

    fn show_one(&self, kernel: library::Kernel) -> Result<Kernel, ApiError> {
        let manifest = kernel.manifest;
        let damaged = |what: &str| {
            ApiError::new(
                ErrorKind::Corrupt,
                format!(
                    "the manifest of the kernel {} has a bad {what}",
                    manifest.name
                ),
            )
            .hint("delete it, then pull or import it again")
        };
        let name: KernelName = manifest
            .name
            .as_str()
            .parse()
            .map_err(|_| damaged("name"))?;
        Ok(Kernel {
            default: name == self.shared.default,
            name,
            version: manifest.kernel_version.clone(),
            arch: manifest.arch.clone(),
            distro: manifest.distro.clone(),
            source: manifest.source.clone(),
            sha256: manifest.sha256.clone(),
            size_bytes: manifest.size.saturating_add(manifest.modules_size),
            imported_at: OffsetDateTime::parse(&manifest.imported_at, &Rfc3339)
                .map_err(|_| damaged("time"))?,
            boot_modules: manifest.boot_modules,
        })
    }
}

fn library_name(name: &KernelName) -> Result<library::KernelName, ApiError> {
    name.as_str()
        .parse()
        .map_err(|error: KernelError| failure(error))
}

fn now() -> Result<String, ApiError> {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("the clock is wrong: {error}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ApiError::new(
                ErrorKind::Internal,
                format!("work on a kernel failed: {error}"),
            ))
        })
}
