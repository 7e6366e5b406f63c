//! Copies a directory tree with everything that belongs to it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    lchown, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};

/// Deeper trees are refused rather than let overflow the stack.
const MAX_DEPTH: usize = 128;

/// The unit in which zeros are looked for.
const PAGE: usize = 4096;

/// Copies the directory `from` to `to`, which is not there yet: contents, hard links within,
/// owners, modes, times and extended attributes.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(from)?;
    Copier::default().directory(from, to, &metadata, 0)
}

#[derive(Default)]
struct Copier {
    /// First copy of each file that has more than one name.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn entry(&mut self, from: &Path, to: &Path, depth: usize) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(from)?;
        if metadata.is_dir() {
            return self.directory(from, to, &metadata, depth);
        }
        let identity = (metadata.dev(), metadata.ino());
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&identity) {
                return std::fs::hard_link(first, to);
            }
            self.links.insert(identity, to.to_owned());
        }
        let kind = metadata.file_type();
        if kind.is_file() {
            let source = File::open(from)?;
            let target = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(to)?;
            copy_data(&source, &target, metadata.len())?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(from)?, to)?;
        } else {
            let node = if kind.is_char_device() {
                FileType::CharacterDevice
            } else if kind.is_block_device() {
                FileType::BlockDevice
            } else if kind.is_fifo() {
                FileType::Fifo
            } else {
                FileType::Socket
            };
            rustix::fs::mknodat(CWD, to, node, Mode::RUSR | Mode::WUSR, metadata.rdev())?;
        }
        attributes(from, to, &metadata)
    }

    fn directory(
        &mut self,
        from: &Path,
        to: &Path,
        metadata: &Metadata,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deep"));
        }
        std::fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in std::fs::read_dir(from)? {
            let name = entry?.file_name();
            self.entry(&from.join(&name), &to.join(&name), depth + 1)?;
        }
        attributes(from, to, metadata)
    }
}

/// Holes stay holes, and so does what reads as zeros: EROFS does not tell where its holes are.
fn copy_data(source: &File, target: &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 16 * PAGE];
    let mut at = 0;
    while at < length {
        at = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(source, SeekFrom::Hole(at))?;
        while at < hole {
            let count = source.read_at(&mut buffer, at)?;
            if count == 0 {
                // It shrank.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for page in buffer[..count].chunks(PAGE) {
                if page.iter().any(|byte| *byte != 0) {
                    target.write_all_at(page, at)?;
                }
                at += page.len() as u64;
            }
        }
    }
    target.set_len(length)
}

/// Owner first, since changing it takes setuid bits and capabilities away.
fn attributes(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.is_symlink() {
        std::fs::set_permissions(to, metadata.permissions())?;
    }
    copy_xattrs(from, to)?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    // The kernel's own bound of a list and of a value.
    let mut names = vec![0; 65_536];
    let count = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        count => count?,
    };
    if count == 0 {
        return Ok(());
    }
    let mut value = vec![0; 65_536];
    for name in names[..count].split(|byte| *byte == 0) {
        // What the overlay keeps for itself is not the file's.
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn holes_stay_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        let image = File::create(from.join("image")).unwrap();
        image.set_len(1 << 40).unwrap();
        for (at, text) in [(0, "begin"), (1 << 30, "middle"), ((1 << 40) - 3, "end")] {
            image.write_all_at(text.as_bytes(), at).unwrap();
        }
        std::fs::write(from.join("zeros"), vec![0; 3 << 20]).unwrap();
        File::create(from.join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        std::fs::write(from.join("empty"), "").unwrap();

        copy_tree(&from, &to).unwrap();

        let copy = File::open(to.join("image")).unwrap();
        let mut text = [0; 6];
        copy.read_exact_at(&mut text, 1 << 30).unwrap();
        assert_eq!(&text, b"middle");
        copy.read_exact_at(&mut text[..5], 0).unwrap();
        assert_eq!(&text[..5], b"begin");
        copy.read_exact_at(&mut text[..3], (1 << 40) - 3).unwrap();
        assert_eq!(&text[..3], b"end");
        for (name, length) in [
            ("image", 1 << 40),
            ("hole", 1 << 30),
            ("zeros", 3 << 20),
            ("empty", 0),
        ] {
            let metadata = std::fs::metadata(to.join(name)).unwrap();
            assert_eq!(metadata.len(), length, "{name}");
            assert!(metadata.blocks() < 2048, "{name}: {}", metadata.blocks());
        }
    }

    #[test]
    fn everything_of_a_tree_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let from = directory.path().join("from");
        let to = directory.path().join("to");
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        std::fs::hard_link(from.join("sub/file"), from.join("again")).unwrap();
        symlink("/no/where", from.join("link")).unwrap();
        rustix::fs::mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4751);
        std::fs::set_permissions(from.join("sub/file"), mode).unwrap();
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 5,
                tv_nsec: 6,
            },
            last_modification: Timespec {
                tv_sec: 7,
                tv_nsec: 8,
            },
        };
        rustix::fs::utimensat(CWD, from.join("sub"), &times, AtFlags::empty()).unwrap();

        copy_tree(&from, &to).unwrap();

        let of = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(std::fs::read(to.join("again")).unwrap(), b"text");
        assert_eq!(of("again").ino(), of("sub/file").ino());
        assert_eq!(of("sub/file").mode() & 0o7777, 0o4751);
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            Path::new("/no/where")
        );
        assert!(of("fifo").file_type().is_fifo());
        assert_eq!((of("sub").mtime(), of("sub").mtime_nsec()), (7, 8));
    }
}
