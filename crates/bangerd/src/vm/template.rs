//! Empty file systems which writable disks are copied from.
//!
//! One per size, made by `mke2fs` the first time a disk of that size is wanted and published by a
//! rename; later disks are sparse copies, so no program runs to create a VM. All disks of one size
//! share a file system UUID: a guest finds its disk by virtio serial and never sees another's.
//!
//! Limits: a template is never changed, and goes only with the state directory. Its options are
//! all written down here, so that the host's `mke2fs.conf` has no say in what guests mount.

use std::fs::File;
use std::path::{Path, PathBuf};

use banger_host::command::Program;
use tokio::sync::Mutex;

use super::resources::HostError;

/// Raised when the options change, so that older templates are left behind.
const GENERATION: u32 = 1;

/// What Linux 6.1 mounts, of what keeps an empty file system small: no resize inode and two
/// backups of the superblock. Inode tables and journal are left unwritten; they are holes, which
/// read as the zeros they should be.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super2,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The templates of one daemon.
#[derive(Debug)]
pub struct Templates {
    directory: PathBuf,
    /// Held while one is being made: two wanted at once are made once.
    making: Mutex<()>,
}

impl Templates {
    /// `directory` exists and is the daemon's own.
    pub fn new(directory: PathBuf) -> Self {
        Templates {
            directory,
            making: Mutex::new(()),
        }
    }

    /// The template for disks of `mib` MiB, made if it is not there.
    ///
    /// # Errors
    /// `mke2fs` is missing or failed, or the directory cannot be written.
    pub async fn get(&self, mib: u64) -> Result<PathBuf, HostError> {
        let path = self.directory.join(format!("ext4-{mib}M.{GENERATION}"));
        if path.exists() {
            return Ok(path);
        }
        let _making = self.making.lock().await;
        if path.exists() {
            return Ok(path);
        }
        self.make(mib, &path).await?;
        Ok(path)
    }

    async fn make(&self, mib: u64, path: &Path) -> Result<(), HostError> {
        let io = |deed, source| HostError::Io {
            deed,
            path: path.to_owned(),
            source,
        };
        let file = tempfile::Builder::new()
            .prefix(".making-")
            .tempfile_in(&self.directory)
            .map_err(|source| io("make", source))?;
        // Only what the host's file system can hold, which a limit of our own cannot know.
        file.as_file().set_len(mib << 20).map_err(|source| {
            if source.kind() == std::io::ErrorKind::FileTooLarge {
                HostError::DiskTooLarge { mib }
            } else {
                io("size", source)
            }
        })?;
        Program::new("mke2fs")
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("MKE2FS_SYNC", "0")
            .args([
                "-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0",
            ])
            .args(["-O", FEATURES])
            .args([
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
            ])
            .args(["-L", "banger-upper"])
            .arg(file.path())
            .time_limit(std::time::Duration::from_secs(60))
            .run()
            .await
            .map_err(|error| HostError::Template {
                source: Box::new(error),
            })?;
        // Before it has its name: a host that crashes must not leave half a template under it.
        file.as_file()
            .sync_all()
            .map_err(|source| io("write out", source))?;
        file.persist(path)
            .map(drop)
            .map_err(|error| io("publish", error.error))
    }

    /// Removes what a killed daemon left half made.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn sweep(&self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(b".making-")
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Copies a template to a new file, which only its owner may read and write.
pub(super) fn copy(template: &Path, to: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let from = File::open(template)?;
    let to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    banger_host::files::copy_contents(&from, &to)?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    async fn have_mke2fs() -> bool {
        let found = Program::new("mke2fs").arg("-V").run().await.is_ok();
        if !found {
            eprintln!("skipped: mke2fs");
        }
        found
    }

    #[tokio::test]
    async fn a_disk_costs_what_its_metadata_costs() {
        if !have_mke2fs().await {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path().to_owned());
        for (mib, most) in [(16, 600 << 10), (8 << 10, 300 << 10), (1 << 20, 40 << 20)] {
            let template = templates.get(mib).await.unwrap();
            let disk = directory.path().join(format!("disk-{mib}"));
            let file = copy(&template, &disk).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), mib << 20);
            assert!(
                metadata.blocks() * 512 <= most,
                "{mib} MiB takes {} bytes",
                metadata.blocks() * 512
            );
            let checked = Program::new("e2fsck")
                .args(["-f", "-n"])
                .arg(&disk)
                .run()
                .await;
            assert!(checked.is_ok(), "{checked:?}");
        }
    }

    #[tokio::test]
    async fn two_wanted_at_once_are_made_once_and_litter_is_swept() {
        if !have_mke2fs().await {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".making-x"), b"").unwrap();
        let templates = Templates::new(directory.path().to_owned());
        let (first, second) = tokio::join!(templates.get(16), templates.get(16));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first, second);
        let inode = first.metadata().unwrap().ino();
        assert_eq!(
            templates.get(16).await.unwrap().metadata().unwrap().ino(),
            inode
        );
        templates.sweep().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_disk_larger_than_any_file_here_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path().to_owned());
        // One EiB less than what a file's length can say at all.
        let mib = (i64::MAX >> 20).cast_unsigned();
        match templates.get(mib).await {
            Err(HostError::DiskTooLarge { mib: told }) => assert_eq!(told, mib),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
