//! Gets a kernel of the catalog: through the host's apt sources, into the store.

use std::path::Path;

use super::store::{Kernel, KernelStore};
use super::unpack::{self, assemble::assemble};
use super::{KernelError, KernelName, Manifest, deb};
use crate::apt::stanza::{self, Stanza};
use crate::apt::{AptError, AptSession, Source, host_sources};
use crate::catalog::{KernelEntry, is_of_series};
use crate::progress::Progress;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct PullRequest {
    pub entry: KernelEntry,
    /// The name to keep it under; the entry's own where none is given.
    pub name: Option<KernelName>,
    /// Replace a kernel of that name, and fetch again even what is there.
    pub replace: bool,
    /// RFC 3339, for the manifest.
    pub imported_at: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub kernel: Kernel,
    /// Whether this call did the work; false where it was there, or somebody else was faster.
    pub fresh: bool,
}

/// Pulls from the host's own sources. Dropping the future ends the work and leaves nothing.
pub async fn pull(
    store: &KernelStore,
    request: PullRequest,
    progress: &Progress,
) -> Result<Pulled, KernelError> {
    pull_from(store, request, None, progress).await
}

/// As [`pull`], from the given apt sources instead of the host's.
pub async fn pull_from(
    store: &KernelStore,
    request: PullRequest,
    sources: Option<Vec<Source>>,
    progress: &Progress,
) -> Result<Pulled, KernelError> {
    let entry = &request.entry;
    let name = request.name.clone().unwrap_or_else(|| entry.name.clone());
    let before = existing(store, &name, request.replace)?;
    let _lock = store.lock(&name).await;
    if let Some(kernel) = existing(store, &name, request.replace)? {
        let replaced_meanwhile = before.as_ref() != Some(&kernel);
        let is_this = kernel.manifest.catalog_entry.as_deref() == Some(entry.name.as_str());
        if is_this && (!request.replace || replaced_meanwhile) {
            return Ok(Pulled {
                kernel,
                fresh: false,
            });
        }
        if !request.replace {
            return Err(KernelError::Exists {
                name: name.to_string(),
                from: kernel.manifest.source,
            });
        }
    }

    let staging = store.staging_directory()?;
    let packaged = |source: AptError| KernelError::Package {
        package: entry.package.clone(),
        source,
    };
    progress.stage("resolve", &entry.package);
    let sources = match sources {
        Some(sources) => sources,
        None => host_sources().await.map_err(packaged)?,
    };
    let mut apt = AptSession::create(&staging.path().join("apt"), &sources, &entry.arch)
        .await
        .map_err(packaged)?;
    apt.update().await.map_err(packaged)?;
    let package = resolve(&apt, entry).await?;
    let file = apt.download(&package, progress).await.map_err(packaged)?;

    let source = format!(
        "apt:{}={} sha256:{}",
        package.get("Package").unwrap_or_default(),
        package.get("Version").unwrap_or_default(),
        package.get("SHA256").unwrap_or_default()
    );
    progress.stage("unpack", package.get("Package").unwrap_or_default());
    let (store, progress) = (store.clone(), progress.clone());
    let abandoned = KernelError::Abandoned {
        name: name.to_string(),
    };
    let work = move || {
        // The directory is the closure's, so that it goes after the last write to it, even if
        // the future that waits for us is dropped.
        let staging = staging;
        let archive =
            deb::data_tar(std::fs::File::open(&file).map_err(KernelError::io("open", &file))?)?;
        let target = staging.path().join("kernel");
        let assembled = unpack_into(archive, staging.path(), &target)?;
        if !is_of_series(&assembled.kernel_version, &request.entry.series) {
            return Err(wrong_series(&request.entry, &assembled.kernel_version));
        }
        let manifest = Manifest {
            name,
            distro: request.entry.distro.clone(),
            arch: "x86_64".into(),
            kernel_version: assembled.kernel_version,
            sha256: assembled.sha256,
            size: assembled.size,
            source,
            catalog_entry: Some(request.entry.name.to_string()),
            imported_at: request.imported_at,
            pvh: assembled.pvh,
            boot_modules: assembled.boot_modules,
            vsock_modules: assembled.vsock_modules,
            module_count: assembled.module_count,
            modules_size: assembled.modules_size,
            modules_digest: assembled.modules_digest,
            kernel_arguments: Vec::new(),
        };
        progress.stage("publish", manifest.name.as_str());
        store.publish(&target, &manifest, request.replace)
    };
    let kernel = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| abandoned)??;
    Ok(Pulled {
        kernel,
        fresh: true,
    })
}

/// What is there under this name; a damaged one counts as nothing where it is to be replaced.
fn existing(
    store: &KernelStore,
    name: &KernelName,
    replace: bool,
) -> Result<Option<Kernel>, KernelError> {
    match store.get(name) {
        Err(KernelError::BadManifest { .. }) if replace => Ok(None),
        other => other,
    }
}

/// Reads an archive and writes the kernel in it to `target`, which is made.
pub(super) fn unpack_into(
    archive: impl std::io::Read,
    staging: &Path,
    target: &Path,
) -> Result<unpack::assemble::Assembled, KernelError> {
    let spill = staging.join("spill");
    for directory in [&spill, target] {
        std::fs::create_dir(directory).map_err(KernelError::io("create", directory))?;
    }
    assemble(unpack::read(archive, &spill)?, target)
}

/// The index entry of the package that holds the kernel.
async fn resolve(apt: &AptSession, entry: &KernelEntry) -> Result<Stanza, KernelError> {
    let packaged = |source: AptError| KernelError::Package {
        package: entry.package.clone(),
        source,
    };
    // What apt would install comes first; only where that is of another series (a newer release
    // is the host's default, say) do the other versions count.
    let mut offered = apt.show(&entry.package, false).await.map_err(packaged)?;
    let found = match kernel_package(&offered, &entry.series) {
        Some(found) => found,
        None => {
            offered.extend(apt.show(&entry.package, true).await.map_err(packaged)?);
            kernel_package(&offered, &entry.series).ok_or_else(|| {
                let first = offered.first().map(kernel_of).unwrap_or_default();
                wrong_series(entry, &first.0)
            })?
        }
    };
    let (package, version) = found;
    let stanzas = apt.show(&package, true).await.map_err(packaged)?;
    stanzas
        .into_iter()
        .find(|stanza| version.is_none() || stanza.get("Version") == version.as_deref())
        .ok_or_else(|| {
            packaged(AptError::NotOffered {
                package: format!("{package}={}", version.unwrap_or_default()),
                detail: String::new(),
            })
        })
}

fn wrong_series(entry: &KernelEntry, found: &str) -> KernelError {
    KernelError::WrongSeries {
        name: entry.name.to_string(),
        package: entry.package.clone(),
        found: found.to_owned(),
        series: entry.series.clone(),
    }
}

const PREFIX: &str = "linux-image-";

/// Name and version of the kernel's package: what a meta package depends on, or the package itself.
fn kernel_of(stanza: &Stanza) -> (String, Option<String>) {
    stanza::depends(stanza.get("Depends").unwrap_or_default())
        .into_iter()
        .find(|(name, _)| name.starts_with(PREFIX))
        .unwrap_or_else(|| {
            (
                stanza.get("Package").unwrap_or_default().to_owned(),
                stanza.get("Version").map(str::to_owned),
            )
        })
}

/// The first offered kernel of a series.
fn kernel_package(offered: &[Stanza], series: &str) -> Option<(String, Option<String>)> {
    offered.iter().map(kernel_of).find(|(name, _)| {
        name.strip_prefix(PREFIX)
            .is_some_and(|version| is_of_series(version, series))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_package_is_found() {
        let index = "Package: linux-image-cloud-amd64\nVersion: 6.12.9-1\n\
            Depends: linux-image-6.12.9-cloud-amd64 (= 6.12.9-1)\n\n\
            Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), initramfs-tools | x\n\n\
            Package: linux-image-5.10.0-1-amd64\nVersion: 5.10.1-1\nDepends: kmod\n";
        let offered = stanza::parse(index);
        let found = |series| kernel_package(&offered, series).map(|(name, _)| name);
        let cases = [
            ("6.1", Some("linux-image-6.1.0-56-cloud-amd64")),
            ("6.12", Some("linux-image-6.12.9-cloud-amd64")),
            ("5.10", Some("linux-image-5.10.0-1-amd64")),
            ("6", Some("linux-image-6.12.9-cloud-amd64")),
            ("7.0", None),
        ];
        for (series, expected) in cases {
            assert_eq!(found(series).as_deref(), expected, "{series}");
        }
    }
}
