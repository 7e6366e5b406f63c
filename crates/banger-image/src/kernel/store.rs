//! The local store: one directory per kernel, published and replaced by a rename.
//!
//! ```text
//! ROOT/NAME/manifest.json   what it is
//! ROOT/NAME/vmlinux         the image
//! ROOT/NAME/modules/…       what goes to /lib/modules/VERSION
//! ROOT/.staging/…           work that is not finished, or being removed; cleared by `sweep`
//! ```
//!
//! Readers need no lock: they see a kernel whole or not at all. A VM holds hard links to the files it
//! runs from, so a directory may go while it runs. One process at a time writes to a store.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use super::{KernelError, KernelName, Manifest};

const MANIFEST: &str = "manifest.json";
const VMLINUX: &str = "vmlinux";
const MODULES: &str = "modules";
/// No kernel name begins with a dot.
const STAGING: &str = ".staging";

/// A stored kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub manifest: Manifest,
    pub directory: PathBuf,
}

impl Kernel {
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join(VMLINUX)
    }

    pub fn modules(&self) -> PathBuf {
        self.directory.join(MODULES)
    }

    /// The files below [`Kernel::modules`], relative, sorted.
    pub fn module_files(&self) -> Result<Vec<String>, KernelError> {
        files_below(&self.modules())
    }
}

/// All kernels of one banger.
#[derive(Clone, Debug)]
pub struct KernelStore {
    root: PathBuf,
    locks: Arc<Mutex<HashMap<KernelName, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Held by whoever works on a name, so that two who want the same kernel do the work once.
#[derive(Debug)]
pub struct NameLock {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl KernelStore {
    /// `root` is made when the first kernel comes.
    pub fn new(root: impl Into<PathBuf>) -> KernelStore {
        KernelStore {
            root: root.into(),
            locks: Arc::default(),
        }
    }

    /// All kernels, sorted by name. One whose manifest cannot be read is logged and left out.
    pub fn list(&self) -> Result<Vec<Kernel>, KernelError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(KernelError::io("read", &self.root)(e)),
        };
        let mut kernels = Vec::new();
        for entry in entries {
            let entry = entry.map_err(KernelError::io("read", &self.root))?;
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<KernelName>().ok())
            else {
                continue;
            };
            match self.get(&name) {
                Ok(Some(kernel)) => kernels.push(kernel),
                Ok(None) => {} // deleted meanwhile
                Err(error) => tracing::warn!(%name, %error, "skipping a damaged kernel"),
            }
        }
        kernels.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(kernels)
    }

    /// The kernel of this name.
    pub fn show(&self, name: &KernelName) -> Result<Kernel, KernelError> {
        self.get(name)?.ok_or_else(|| KernelError::NotFound {
            name: name.to_string(),
        })
    }

    /// As [`KernelStore::show`], `None` where there is none.
    pub fn get(&self, name: &KernelName) -> Result<Option<Kernel>, KernelError> {
        let directory = self.root.join(name.as_str());
        let path = directory.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            // Only "there is none" may read as none: anything else is the caller's to hear.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(KernelError::io("read", path)(e)),
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| KernelError::BadManifest { path, source })?;
        Ok(Some(Kernel {
            manifest,
            directory,
        }))
    }

    /// Removes a kernel, damaged ones too.
    pub fn delete(&self, name: &KernelName) -> Result<(), KernelError> {
        let directory = self.root.join(name.as_str());
        // First out of sight in one step, so that a crash leaves a kernel whole or staging.
        let grave = self.staging_directory()?;
        match std::fs::rename(&directory, grave.path().join("kernel")) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(KernelError::NotFound {
                    name: name.to_string(),
                });
            }
            Err(e) => return Err(KernelError::io("remove", directory)(e)),
        }
        let path = grave.path().to_owned();
        grave.close().map_err(KernelError::io("remove", path))
    }

    /// Clears what killed work left behind. Only while no work goes on: at the daemon's start.
    pub fn sweep(&self) -> Result<(), KernelError> {
        let staging = self.root.join(STAGING);
        match std::fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::io("remove", staging)(e))
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody else works on this name.
    pub async fn lock(&self, name: &KernelName) -> NameLock {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Names nobody waits for are forgotten, so that the map stays as small as the work.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(name.clone()).or_default().clone()
        };
        NameLock {
            _guard: lock.lock_owned().await,
        }
    }

    /// A directory to work in; it goes when it is dropped.
    pub(super) fn staging_directory(&self) -> Result<TempDir, KernelError> {
        let staging = self.root.join(STAGING);
        std::fs::create_dir_all(&staging).map_err(KernelError::io("create", &staging))?;
        tempfile::Builder::new()
            .prefix("work-")
            // apt's own user must be able to reach its lists.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&staging)
            .map_err(KernelError::io("create a directory in", staging))
    }

    /// Puts a finished directory into its place. Blocking.
    pub(super) fn publish(
        &self,
        finished: &Path,
        manifest: &Manifest,
        replace: bool,
    ) -> Result<Kernel, KernelError> {
        let mut text =
            serde_json::to_vec_pretty(manifest).map_err(|source| KernelError::BadManifest {
                path: finished.join(MANIFEST),
                source,
            })?;
        text.push(b'\n');
        let path = finished.join(MANIFEST);
        std::fs::write(&path, text).map_err(KernelError::io("write", &path))?;
        sync_below(finished).map_err(KernelError::io("sync", finished))?;
        let target = self.root.join(manifest.name.as_str());
        let kernel = Kernel {
            manifest: manifest.clone(),
            directory: target.clone(),
        };
        match renameat_with(CWD, finished, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) if replace => {
                // The old one lands in staging, and goes with it.
                renameat_with(CWD, finished, CWD, &target, RenameFlags::EXCHANGE)
                    .map_err(|e| KernelError::io("replace", &target)(e.into()))?;
            }
            Err(rustix::io::Errno::EXIST) => {
                return Err(KernelError::Exists {
                    name: manifest.name.to_string(),
                    from: self
                        .get(&manifest.name)
                        .ok()
                        .flatten()
                        .map_or_else(|| "an unknown source".into(), |k| k.manifest.source),
                });
            }
            Err(e) => return Err(KernelError::io("publish", &target)(e.into())),
        }
        std::fs::File::open(&self.root)
            .and_then(|root| root.sync_all())
            .map_err(KernelError::io("sync", &self.root))?;
        Ok(kernel)
    }
}

/// Paths in a directory being made ready for [`KernelStore::publish`].
pub(super) fn vmlinux_in(directory: &Path) -> PathBuf {
    directory.join(VMLINUX)
}

pub(super) fn modules_in(directory: &Path) -> PathBuf {
    directory.join(MODULES)
}

/// Regular files below a directory, relative, sorted. Missing directory: none.
pub(super) fn files_below(root: &Path) -> Result<Vec<String>, KernelError> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(KernelError::io("read", directory)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(KernelError::io("read", &directory))?;
            let kind = entry
                .file_type()
                .map_err(KernelError::io("read", entry.path()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file()
                && let Ok(relative) = entry.path().strip_prefix(root)
                && let Some(text) = relative.to_str()
            {
                files.push(text.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// One `syncfs` would do for all, but would also wait for whatever else the host writes.
fn sync_below(root: &Path) -> io::Result<()> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                std::fs::File::open(entry.path())?.sync_all()?;
            }
        }
        std::fs::File::open(&directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
