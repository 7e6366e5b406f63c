//! Disks by virtio serial: found, mounted in the initramfs, grown.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use super::BootError;

pub const BASE: &str = "/base";
pub const UPPER: &str = "/upper";

/// A driver may still be probing; a second VMM core makes that likely.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device of the disk with this serial.
pub fn find(serial: &str) -> Result<PathBuf, BootError> {
    let start = Instant::now();
    loop {
        if let Some(name) = scan(Path::new("/sys/block"), serial) {
            return Ok(Path::new("/dev").join(name));
        }
        if start.elapsed() > PATIENCE {
            return Err(BootError::NoDisk(serial.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn scan(block: &Path, serial: &str) -> Option<std::ffi::OsString> {
    std::fs::read_dir(block)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| {
            std::fs::read_to_string(entry.path().join("serial"))
                .is_ok_and(|found| found.trim_end() == serial)
        })
        .map(|entry| entry.file_name())
}

pub fn mount_base(device: &Path) -> Result<(), BootError> {
    place(device, BASE, c"erofs", MountFlags::RDONLY, c"")
}

pub fn mount_upper(device: &Path) -> Result<(), BootError> {
    // Inode tables that are zero already need no zeroing on the host's disk.
    place(
        device,
        UPPER,
        c"ext4",
        MountFlags::NOATIME,
        c"noinit_itable",
    )
}

fn place(
    device: &Path,
    at: &'static str,
    kind: &std::ffi::CStr,
    flags: MountFlags,
    options: &std::ffi::CStr,
) -> Result<(), BootError> {
    std::fs::create_dir_all(at).map_err(BootError::io("create", at))?;
    mount(device, at, kind, flags, options)
        .map_err(|error| BootError::io("mount", device.display().to_string())(error.into()))
}

/// `_IOW('f', 16, __u64)`: the new number of blocks.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Lets the file system fill its disk, which may be larger than the template it was copied from.
pub fn grow(device: &Path) -> io::Result<()> {
    let disk = File::open(device)?;
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let size = disk_size(&disk)?;
    let Some(blocks) = blocks_to_grow_to(&superblock, size) else {
        return Ok(());
    };
    let root = File::open(UPPER)?;
    // SAFETY: the call reads the number, which outlives it.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn disk_size(disk: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(disk, rustix::fs::SeekFrom::End(0))?)
}

/// The blocks of a disk of `size` bytes, where the ext4 superblock says that there are fewer.
fn blocks_to_grow_to(superblock: &[u8; 1024], size: u64) -> Option<u64> {
    let word = |at: usize| {
        u32::from_le_bytes([
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ])
    };
    const INCOMPAT_64BIT: u32 = 0x80;
    let shift = word(0x18).checked_add(10).filter(|shift| *shift <= 16)?;
    let high = if word(0x60) & INCOMPAT_64BIT != 0 {
        word(0x150)
    } else {
        0
    };
    let now = u64::from(high) << 32 | u64::from(word(0x4));
    let blocks = size >> shift;
    (blocks > now).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_serial() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "upper"), ("vdb", "base\n"), ("loop0", "")] {
            std::fs::create_dir(block.path().join(name)).unwrap();
            std::fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        std::fs::create_dir(block.path().join("ram0")).unwrap();
        assert_eq!(scan(block.path(), "base"), Some("vdb".into()));
        assert_eq!(scan(block.path(), "bas"), None);
        assert_eq!(scan(&block.path().join("none"), "base"), None);
    }

    #[test]
    fn a_file_system_grows_to_its_disk() {
        let mut superblock = [0; 1024];
        superblock[0x18] = 2;
        superblock[0x4..0x8].copy_from_slice(&1000u32.to_le_bytes());
        assert_eq!(blocks_to_grow_to(&superblock, 4096 * 1000), None);
        assert_eq!(blocks_to_grow_to(&superblock, 4096 * 1001 + 5), Some(1001));
        superblock[0x60] = 0x80;
        superblock[0x150] = 1;
        assert_eq!(blocks_to_grow_to(&superblock, 4096 * 1001), None);
        superblock[0x18] = 200;
        assert_eq!(blocks_to_grow_to(&superblock, u64::MAX), None);
    }
}
