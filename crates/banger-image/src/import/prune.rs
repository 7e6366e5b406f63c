//! Gives disk space back.

use std::collections::HashSet;
use std::fs;
use std::io;

use crate::blobs::remove_files;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::import::Images;

/// What pruning removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub blobs: u64,
    pub bases: u64,
    /// Allocated bytes of both.
    pub bytes: u64,
}

impl Images {
    /// Removes what a killed process left half done. Only while no import runs: at start.
    pub fn sweep(&self) -> Result<(), ImageError> {
        let failed = |error| ImageError::io("clear", &self.staging, error);
        for entry in fs::read_dir(&self.staging).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            let removed = if is_directory {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.map_err(|error| ImageError::io("remove", entry.path(), error))?;
        }
        Ok(())
    }

    /// Removes all cached blobs and every base that is neither in `used` nor leased.
    pub fn prune(&self, used: &HashSet<Digest>, dry_run: bool) -> Result<Pruned, ImageError> {
        let (blobs, blob_bytes) = self.blobs.prune(dry_run)?;
        let kept = |name: &str| match base_of_name(name) {
            Some(digest) => used.contains(&digest) || self.leases.is_leased(&digest),
            // Not ours to judge.
            None => true,
        };
        let (bases, base_bytes) = remove_files(&self.bases, true, kept)?;
        if !dry_run {
            for entry in self.base_names()? {
                if !used.contains(&entry) {
                    self.remove_base(&entry)?;
                }
            }
        }
        Ok(Pruned {
            blobs,
            bases,
            bytes: blob_bytes + base_bytes,
        })
    }

    /// Removes a base unless it is leased; tells whether it is gone. VMs that run from it have a
    /// link of their own.
    pub fn remove_base(&self, digest: &Digest) -> Result<bool, ImageError> {
        let path = self.base_path(digest);
        match self.leases.unless_leased(digest, || fs::remove_file(&path)) {
            None => Ok(false),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io("remove", path, error))
            }
            Some(_) => Ok(true),
        }
    }

    fn base_names(&self) -> Result<Vec<Digest>, ImageError> {
        let failed = |error| ImageError::io("list", &self.bases, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.bases).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().and_then(base_of_name));
        }
        Ok(names)
    }
}

fn base_of_name(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_suffix(".erofs")?).ok()
}
