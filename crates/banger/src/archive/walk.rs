//! A directory tree, entry by entry, into a tar stream.
//!
//! A directory's other entries come before its subdirectories, so that one directory is open at a
//! time however deep the tree is.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_protocol::error::{ApiError, ErrorKind};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::header::{Entry, Kind, Xattrs};
use super::{copy_exactly, finish, gone, pad, sparse, unreadable};

/// Largest extended attribute the kernel allows.
const MAX_XATTR: usize = 64 << 10;

/// Writes everything below `root` whose top-level name is kept, and `root` itself as `./`.
///
/// # Errors
/// The first entry that cannot be read, by its path; a failed write says that the receiver is gone.
pub fn directory(
    root: &Path,
    keep: fn(&[u8]) -> bool,
    out: &mut dyn Write,
) -> Result<(), ApiError> {
    let fd = rustix::fs::open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| unreadable(root, &error.into()))?;
    let mut walk = Walk {
        root,
        fd,
        keep,
        seen: HashMap::new(),
        out,
    };
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let mut below = walk.one_directory(&path)?;
        // The last one pushed is walked first.
        below.reverse();
        pending.extend(below);
    }
    finish(walk.out)
}

struct Walk<'a> {
    root: &'a Path,
    fd: OwnedFd,
    /// Which names at the top are written.
    keep: fn(&[u8]) -> bool,
    /// Device and inode of files with several names, and the first of these.
    seen: HashMap<(u64, u64), Vec<u8>>,
    out: &'a mut dyn Write,
}

impl Walk<'_> {
    /// Writes a directory and its other entries; returns the paths of its subdirectories.
    fn one_directory(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, ApiError> {
        let failed = |walk: &Self, error: Errno| unreadable(&walk.full(path), &error.into());
        let relative = if path.is_empty() { b"." } else { path };
        let directory = rustix::fs::openat2(
            &self.fd,
            OsStr::from_bytes(relative),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|error| failed(self, error))?;
        let stat = rustix::fs::fstat(&directory).map_err(|error| failed(self, error))?;
        let own_name = if path.is_empty() {
            b"./".to_vec()
        } else {
            [path, b"/"].concat()
        };
        let xattrs = xattrs(&directory, c".").map_err(|error| failed(self, error))?;
        self.write(&entry(own_name, Kind::Directory, &stat, xattrs))?;

        let mut names = Vec::new();
        for item in Dir::read_from(&directory).map_err(|error| failed(self, error))? {
            let item = item.map_err(|error| failed(self, error))?;
            let name = item.file_name().to_owned();
            let bytes = name.as_bytes();
            if !matches!(bytes, b"." | b"..") && (!path.is_empty() || (self.keep)(bytes)) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut below = Vec::new();
        for name in names {
            let child = if path.is_empty() {
                name.as_bytes().to_vec()
            } else {
                [path, b"/", name.as_bytes()].concat()
            };
            if self.other_entry(&directory, &name, &child)? {
                below.push(child);
            }
        }
        Ok(below)
    }

    /// Writes an entry that is no directory; true where it is one.
    fn other_entry(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        path: &[u8],
    ) -> Result<bool, ApiError> {
        let failed = |walk: &Self, error: Errno| unreadable(&walk.full(path), &error.into());
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(self, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Ok(true);
        }
        if kind == FileType::Socket {
            return Ok(false);
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.seen.get(&inode) {
                let link = Kind::HardLink(first.clone());
                let entry = entry(path.to_vec(), link, &stat, Vec::new());
                self.write(&entry)?;
                return Ok(false);
            }
            self.seen.insert(inode, path.to_vec());
        }
        let xattrs = xattrs(directory, name).map_err(|error| failed(self, error))?;
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        let kind = match kind {
            FileType::RegularFile => {
                self.file(directory, name, path, &stat, xattrs)?;
                return Ok(false);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|error| failed(self, error))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharDevice(device.0, device.1),
            FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
            FileType::Fifo => Kind::Fifo,
            _ => {
                return Err(ApiError::new(
                    ErrorKind::InvalidArgument,
                    format!("{} is of an unknown type", self.full(path).display()),
                ));
            }
        };
        self.write(&entry(path.to_vec(), kind, &stat, xattrs))?;
        Ok(false)
    }

    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        path: &[u8],
        seen: &Stat,
        xattrs: Xattrs,
    ) -> Result<(), ApiError> {
        let full = self.full(path);
        // Non-blocking, in case a pipe took the file's place since.
        let file = rustix::fs::openat(
            directory,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| unreadable(&full, &error.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(&full, &error.into()))?;
        if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(ApiError::new(
                ErrorKind::WrongState,
                format!("{} was replaced while it was read", full.display()),
            )
            .hint("try again when nothing writes to it"));
        }
        let mut file = File::from(file);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let allocated = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        let parts =
            sparse::data(&file, size, allocated).map_err(|error| unreadable(&full, &error))?;
        let (parts, stored) = match parts {
            None => (vec![(0, size)], size),
            Some(parts) => {
                let map = sparse::map(&parts, size);
                let stored = map.len() as u64 + parts.iter().map(|(_, length)| length).sum::<u64>();
                let kind = Kind::Sparse {
                    real_size: size,
                    stored_size: stored,
                };
                self.write(&entry(path.to_vec(), kind, &stat, xattrs))?;
                self.out.write_all(&map).map_err(|error| gone(&error))?;
                return self.parts(&mut file, &parts, stored, &full);
            }
        };
        self.write(&entry(path.to_vec(), Kind::File { size }, &stat, xattrs))?;
        self.parts(&mut file, &parts, stored, &full)
    }

    fn parts(
        &mut self,
        file: &mut File,
        parts: &[(u64, u64)],
        stored: u64,
        full: &Path,
    ) -> Result<(), ApiError> {
        for (at, length) in parts {
            file.seek(SeekFrom::Start(*at))
                .map_err(|error| unreadable(full, &error))?;
            copy_exactly(file, *length, self.out, full)?;
        }
        pad(stored, self.out)
    }

    fn write(&mut self, entry: &Entry) -> Result<(), ApiError> {
        self.out
            .write_all(&entry.encode())
            .map_err(|error| gone(&error))
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }
}

fn entry(name: Vec<u8>, kind: Kind, stat: &Stat, xattrs: Xattrs) -> Entry {
    Entry {
        name,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs,
    }
}

/// The extended attributes that belong to the file rather than to this host.
fn xattrs(directory: &OwnedFd, name: &CStr) -> Result<Xattrs, Errno> {
    // There is no fgetxattrat; the descriptor's own link leads to the entry itself.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend(name.to_bytes());
    let path = OsStr::from_bytes(&path);
    let mut buffer = vec![0; MAX_XATTR];
    let length = match rustix::fs::llistxattr(path, &mut buffer) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names: Vec<CString> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| is_the_files(name))
        .filter_map(|name| CString::new(name).ok())
        .collect();
    let mut pairs = Vec::with_capacity(names.len());
    for name in names {
        match rustix::fs::lgetxattr(path, &name, &mut buffer) {
            Ok(length) => pairs.push((name.into_bytes(), buffer[..length].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    pairs.sort_unstable();
    Ok(pairs)
}

fn is_the_files(name: &[u8]) -> bool {
    const NOT: [&[u8]; 5] = [
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"security.apparmor",
        b"security.SMACK64",
    ];
    !name.is_empty() && !NOT.contains(&name) && !name.starts_with(b"trusted.overlay.")
}
