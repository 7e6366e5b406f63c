//! Directories that lie on the writable disk itself, mounted over the overlay.
//!
//! Container stores cannot be on an overlay, and what an image declares a volume should not pay
//! for one. Each is kept in `volumes/` of the disk under its escaped path, and holds at first
//! what the image has there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use banger_protocol::bytes::ByteString;

use super::files::ensure_directory;
use super::root::{open_tree_clone, place_tree};
use super::{Progress, seed};
use crate::user::Accounts;

/// Stores of container runtimes, below /var/lib.
const STORES: [&str; 6] = [
    "docker",
    "containerd",
    "containers",
    "buildkit",
    "rancher",
    "kubelet",
];

/// Those of people, below their home.
const HOME_STORES: [&str; 2] = [".local/share/containers", ".local/share/docker"];

/// Homes that get stores; an image may have thousands of accounts.
const MAX_HOMES: usize = 16;

/// Volumes of an image that are honoured.
const MAX_DECLARED: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
}

const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Mounts all; a volume that cannot be is a plain directory of the overlay.
pub fn mount_all(upper: &OwnedFd, declared: &[ByteString], progress: &mut Progress) {
    let mut wanted: BTreeMap<PathBuf, Owner> = BTreeMap::new();
    if Path::new("/var/lib").is_dir() {
        wanted.extend(STORES.map(|store| (Path::new("/var/lib").join(store), ROOT)));
    }
    wanted.extend(home_stores(&Accounts::read(Path::new("/"))));
    for path in declared.iter().take(MAX_DECLARED) {
        match checked(Path::new(path.as_os_str())) {
            Some(path) => {
                wanted.entry(path).or_insert(ROOT);
            }
            None => progress.warn(format!("the image's volume {path:?} is not a usable path")),
        }
    }
    // In order of their paths, so that one may lie in another.
    for (path, owner) in wanted {
        let result = mount(upper, &path, owner);
        progress.tolerate(&format!("mount volume {}", path.display()), result);
    }
}

fn home_stores(accounts: &Accounts) -> Vec<(PathBuf, Owner)> {
    accounts
        .homes()
        .filter(|(_, _, home)| home.starts_with(b"/home/"))
        .map(|(uid, gid, home)| (Owner { uid, gid }, Path::new(OsStr::from_bytes(home))))
        .filter(|(_, home)| home.is_dir())
        .take(MAX_HOMES)
        .flat_map(|(owner, home)| HOME_STORES.map(|store| (home.join(store), owner)))
        .collect()
}

/// A path that may be mounted over.
fn checked(path: &Path) -> Option<PathBuf> {
    let plain: PathBuf = path.components().collect();
    let all_normal = plain
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    let usable = path.is_absolute()
        && all_normal
        && plain.components().count() > 1
        && !path.as_os_str().as_bytes().contains(&0)
        && !["/dev", "/proc", "/sys", "/run"]
            .iter()
            .any(|system| plain.starts_with(system));
    usable.then_some(plain)
}

/// Whether the image's symlinks lead a usable path to one that is not, such as the root.
fn leads_astray(path: &Path) -> bool {
    path.canonicalize()
        .is_ok_and(|path| checked(&path).is_none())
}

/// The name of a path's directory on the disk.
fn escaped(path: &Path) -> Option<String> {
    let mut name = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
            b'/' => name.push('+'),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    // A file name's limit, less the suffix of one that is being filled.
    (name.len() <= 250).then_some(name)
}

fn mount(upper: &OwnedFd, path: &Path, owner: Owner) -> io::Result<()> {
    if leads_astray(path) {
        return Err(io::Error::other("a symlink leads to a system directory"));
    }
    // The disk is not below our root any more; its descriptor still is where it was.
    let volumes = PathBuf::from(format!("/proc/self/fd/{}/volumes", upper.as_raw_fd()));
    let volume = ensure_volume(&volumes, path, owner)?;
    make_mount_point(path, owner)?;
    place_tree(&open_tree_clone(&volume)?, path)
}

/// The directory in `volumes` that belongs to `path`, made of what is there where it is new.
fn ensure_volume(volumes: &Path, path: &Path, owner: Owner) -> io::Result<PathBuf> {
    let name = escaped(path).ok_or(io::ErrorKind::InvalidFilename)?;
    let volume = volumes.join(&name);
    if !volume.is_dir() {
        let new = volumes.join(name + ".new");
        remove(&new)?;
        if let Err(error) = fill(&new, path, owner) {
            // What was copied so far would take the disk's room from the machine for good.
            let _ = remove(&new);
            return Err(error);
        }
        std::fs::rename(&new, &volume)?;
    }
    Ok(volume)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes the directory `new` of what is at `path`.
fn fill(new: &Path, path: &Path, owner: Owner) -> io::Result<()> {
    if path.is_dir() {
        return seed::copy_tree(path, new);
    }
    ensure_directory(new, 0o755)?;
    std::os::unix::fs::chown(new, Some(owner.uid), Some(owner.gid))
}

/// Every directory that is made on the way belongs to the owner of the store.
fn make_mount_point(path: &Path, owner: Owner) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    for path in missing.into_iter().rev() {
        ensure_directory(path, 0o755)?;
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_volumes() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"/data", Some("/data")),
            (b"/data/", Some("/data")),
            (b"//a//./b", Some("/a/b")),
            (b"/a/../b", None),
            (b"data", None),
            (b"", None),
            (b"/", None),
            (b"/proc", None),
            (b"/dev/shm", None),
            (b"/device", Some("/device")),
            (b"/a\0b", None),
        ];
        for (path, expected) in cases {
            let path = Path::new(OsStr::from_bytes(path));
            assert_eq!(checked(path), expected.map(PathBuf::from), "{path:?}");
        }
    }

    #[test]
    fn symlinks_to_system_directories_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("real")).unwrap();
        let links = [
            ("plain", "real", false),
            ("dangling", "nowhere", false),
            ("root", "/", true),
            ("up", "../../../../../../../../..", true),
            ("magic", "/proc/self/root", true),
            ("system", "/dev/pts", true),
        ];
        for (name, target, astray) in links {
            std::os::unix::fs::symlink(target, path(name)).unwrap();
            assert_eq!(leads_astray(&path(name)), astray, "{name}");
        }
        assert!(!leads_astray(&path("real")));
        assert!(!leads_astray(&path("missing")));
    }

    #[test]
    fn names_are_unique_and_bounded() {
        let name = |path: &str| escaped(Path::new(path));
        assert_eq!(name("/var/lib/docker").unwrap(), "+var+lib+docker");
        assert_eq!(name("/a+b.c%").unwrap(), "+a%2bb%2ec%25");
        assert_eq!(name(&"/x".repeat(126)), None);
    }

    #[test]
    fn a_volume_that_cannot_be_filled_leaves_nothing_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (image, volumes) = (directory.path().join("image"), directory.path().join("v"));
        std::fs::create_dir(&volumes).unwrap();
        std::fs::create_dir_all(image.join("d/".repeat(200))).unwrap();
        let owner = Owner {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let error = ensure_volume(&volumes, &image, owner).unwrap_err();
        assert!(error.to_string().contains("too deep"), "{error}");
        assert_eq!(std::fs::read_dir(&volumes).unwrap().count(), 0);
        let shallow = directory.path().join("v2");
        std::fs::create_dir_all(shallow.join("d")).unwrap();
        let volume = ensure_volume(&volumes, &shallow, owner).unwrap();
        assert!(volume.join("d").is_dir());
    }

    #[test]
    fn people_get_stores_in_homes_that_exist() {
        let accounts = Accounts::new(
            "a:x:1000:7::/home/none-such:/bin/sh\nb:x:1001:7::/srv:\n",
            "",
        );
        assert_eq!(home_stores(&accounts), []);
    }
}
