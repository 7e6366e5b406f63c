//! The overlay root, and the writable disk's memory of what it was made for.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::mount::{MountFlags, mount as mount_at};
use serde::{Deserialize, Serialize};

use super::BootError;
use super::disks::{BASE, UPPER};

/// Where the overlay is mounted before it becomes the root.
pub const ROOT: &str = "/root";

/// Renaming image directories works, hard links stay one file, inode numbers stay unique. Part of
/// what is stored in the upper, so they never change for a disk.
const OPTIONS: &str = "redirect_dir=on,index=on,metacopy=off,xino=on";

/// Written into the writable disk before anything else is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    base: String,
    options: String,
}

/// Mounts the overlay; returns the writable disk's top directory.
pub fn mount(base_digest: &str) -> Result<OwnedFd, BootError> {
    let upper = Path::new(UPPER);
    let stamp = Stamp {
        base: base_digest.to_owned(),
        options: OPTIONS.to_owned(),
    };
    prepare(upper, Path::new(BASE), &stamp)?;
    std::fs::create_dir_all(ROOT).map_err(BootError::io("create", ROOT))?;
    let options = format!("lowerdir={BASE},upperdir={UPPER}/root,workdir={UPPER}/work,{OPTIONS}");
    let options = std::ffi::CString::new(options)
        .map_err(|error| BootError::io("name", "the overlay's options")(error.into()))?;
    mount_at(c"overlay", ROOT, c"overlay", MountFlags::NOATIME, &*options)
        .map_err(|error| BootError::io("mount", "the overlay")(error.into()))?;
    let directory = File::open(upper).map_err(BootError::io("open", UPPER))?;
    Ok(directory.into())
}

/// Makes the writable disk's directories, or checks that they were made for this base.
fn prepare(upper: &Path, base: &Path, stamp: &Stamp) -> Result<(), BootError> {
    let path = upper.join("overlay.json");
    let name = path.display().to_string();
    match std::fs::read(&path) {
        Ok(text) => {
            let found: Stamp = serde_json::from_slice(&text)
                .map_err(|error| BootError::io("read", name)(error.into()))?;
            if found.base != stamp.base {
                return Err(BootError::BaseMismatch {
                    found: found.base,
                    expected: stamp.base.clone(),
                });
            }
            if found.options != stamp.options {
                return Err(BootError::OptionsMismatch {
                    found: found.options,
                    expected: stamp.options.clone(),
                });
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if upper.join("root").exists() {
                return Err(BootError::ForeignUpper);
            }
            write_stamp(upper, stamp).map_err(BootError::io("write", name))?;
        }
        Err(error) => return Err(BootError::io("read", name)(error)),
    }
    make_directories(upper, base).map_err(BootError::io("prepare", "the writable disk"))
}

fn write_stamp(upper: &Path, stamp: &Stamp) -> std::io::Result<()> {
    let new = upper.join("overlay.json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(stamp)?)?;
    file.sync_all()?;
    std::fs::rename(&new, upper.join("overlay.json"))?;
    File::open(upper)?.sync_all()
}

/// The upper's root is what a user sees of the image's: it gets its owner and mode.
fn make_directories(upper: &Path, base: &Path) -> std::io::Result<()> {
    let root = upper.join("root");
    if !root.exists() {
        // Under its name only when it is right.
        let new = upper.join("root.new");
        if !new.exists() {
            std::fs::create_dir(&new)?;
        }
        let image = std::fs::metadata(base)?;
        chown(&new, Some(image.uid()), Some(image.gid()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(image.mode() & 0o7777))?;
        std::fs::rename(&new, &root)?;
    }
    for name in ["work", "volumes"] {
        let path = upper.join(name);
        if !path.exists() {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(base: &str) -> Stamp {
        Stamp {
            base: base.to_owned(),
            options: OPTIONS.to_owned(),
        }
    }

    #[test]
    fn a_disk_is_used_with_its_own_base_only() {
        let directory = tempfile::tempdir().unwrap();
        let (upper, base) = (
            directory.path().join("upper"),
            directory.path().join("base"),
        );
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o711)).unwrap();
        prepare(&upper, &base, &stamp("sha256:a")).unwrap();
        let mode = std::fs::metadata(upper.join("root")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o711);
        prepare(&upper, &base, &stamp("sha256:a")).unwrap();
        assert!(matches!(
            prepare(&upper, &base, &stamp("sha256:b")),
            Err(BootError::BaseMismatch { found, expected })
                if found == "sha256:a" && expected == "sha256:b"
        ));
        let other = Stamp {
            options: "metacopy=on".to_owned(),
            ..stamp("sha256:a")
        };
        assert!(matches!(
            prepare(&upper, &base, &other),
            Err(BootError::OptionsMismatch { .. })
        ));
        std::fs::remove_file(upper.join("overlay.json")).unwrap();
        assert!(matches!(
            prepare(&upper, &base, &stamp("sha256:a")),
            Err(BootError::ForeignUpper)
        ));
    }
}
