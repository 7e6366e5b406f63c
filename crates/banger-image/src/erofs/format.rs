//! Structures on disk, little endian. Pure.

use crate::tar::Time;

pub(crate) const BLOCK_BYTES: u64 = 4096;
const BLOCK_BITS: u8 = 12;
/// An extended inode, without what follows it.
pub(crate) const INODE_BYTES: u64 = 64;
/// Inodes are numbered by their position in these units.
pub(super) const SLOT_BYTES: u64 = 32;
/// Longest symlink target that Linux returns.
pub(crate) const MAX_SYMLINK: usize = 4095;
/// Five bits of an inode hold the logarithm of blocks per chunk.
pub(crate) const MAX_CHUNK_BITS: u8 = 31;
/// A chunk that is not stored.
pub(super) const HOLE: u32 = u32::MAX;

const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// The checksum is there, and so are times of modification.
const COMPAT: u32 = 0x1 | 0x2;
const INCOMPAT_CHUNKED: u32 = 0x4;

/// Whether a tail may follow an inode with so many bytes of attributes: both in one block.
pub(crate) fn fits_behind_inode(xattr_bytes: usize, tail: usize) -> bool {
    tail > 0 && INODE_BYTES as usize + xattr_bytes + tail <= BLOCK_BYTES as usize
}

/// How an inode's content is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain { block: u32 },
    Inline { block: u32 },
    Chunked { bits: u8 },
    Device { major: u32, minor: u32 },
}

/// An extended inode.
pub(super) struct Inode {
    pub layout: Layout,
    pub xattr_bytes: usize,
    /// Type and permissions.
    pub mode: u16,
    pub size: u64,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub links: u32,
}

impl Inode {
    pub fn encode(&self) -> [u8; INODE_BYTES as usize] {
        let (layout, union) = match self.layout {
            Layout::Plain { block } => (0_u16, block),
            Layout::Inline { block } => (2, block),
            Layout::Chunked { bits } => (4, u32::from(bits)),
            Layout::Device { major, minor } => (0, device_number(major, minor)),
        };
        let mut bytes = Fields::default();
        bytes.u16(layout << 1 | 1);
        bytes.u16(xattr_count(self.xattr_bytes));
        bytes.u16(self.mode);
        bytes.u16(0);
        bytes.u64(self.size);
        bytes.u32(union);
        bytes.u32(self.number);
        bytes.u32(self.uid);
        bytes.u32(self.gid);
        bytes.u64(self.mtime.seconds.cast_unsigned());
        bytes.u32(self.mtime.nanoseconds);
        bytes.u32(self.links);
        bytes.padded()
    }
}

/// The attributes' size in words, less the header's three, plus one; none is zero.
fn xattr_count(bytes: usize) -> u16 {
    // `xattr::encode` bounds the size so that this fits.
    match bytes.checked_sub(super::xattr::HEADER_BYTES) {
        Some(entries) => (entries / 4 + 1) as u16,
        None => 0,
    }
}

/// As `new_encode_dev` of Linux has it: eight bits of the minor on each side of the major.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The block that makes the file a file system.
pub(super) struct Superblock {
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub metadata_block: u32,
    pub uuid: [u8; 16],
    pub chunked: bool,
}

impl Superblock {
    /// The whole first block, checksum included.
    pub fn encode(&self) -> [u8; BLOCK_BYTES as usize] {
        let mut bytes = Fields::default();
        bytes.u32(MAGIC);
        bytes.u32(0);
        bytes.u32(COMPAT);
        bytes.0.extend([BLOCK_BITS, 0]);
        bytes.u16(self.root);
        bytes.u64(self.inodes);
        // Time of building: none, so that two builds agree.
        bytes.u64(0);
        bytes.u32(0);
        bytes.u32(self.blocks);
        bytes.u32(self.metadata_block);
        // No shared attributes.
        bytes.u32(0);
        bytes.0.extend(self.uuid);
        bytes.0.extend([0; 16]);
        bytes.u32(if self.chunked { INCOMPAT_CHUNKED } else { 0 });
        let mut block = [0; BLOCK_BYTES as usize];
        let (_, superblock) = block.split_at_mut(SUPERBLOCK_OFFSET);
        for (to, from) in superblock.iter_mut().zip(bytes.0) {
            *to = from;
        }
        // Linux does not invert the sum at the end, the usual definition does.
        let checksum = !crc32c::crc32c(superblock);
        for (to, from) in superblock.iter_mut().skip(4).zip(checksum.to_le_bytes()) {
            *to = from;
        }
        block
    }
}

#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn padded<const N: usize>(self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.0) {
            *to = from;
        }
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_on_disk() {
        let inode = Inode {
            layout: Layout::Device {
                major: 0x123,
                minor: 0x45678,
            },
            xattr_bytes: 12 + 8,
            mode: 0o020_644,
            size: 0,
            number: 7,
            uid: 4_000_000_000,
            gid: 1,
            mtime: Time {
                seconds: -2,
                nanoseconds: 750_000_000,
            },
            links: 3,
        };
        let expected: Vec<u8> = [
            &[1, 0, 3, 0, 0xa4, 0x21, 0, 0][..],
            &[0; 8],
            &0x4561_2378_u32.to_le_bytes(),
            &7_u32.to_le_bytes(),
            &4_000_000_000_u32.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &(-2_i64).to_le_bytes(),
            &750_000_000_u32.to_le_bytes(),
            &3_u32.to_le_bytes(),
            &[0; 16],
        ]
        .concat();
        assert_eq!(inode.encode()[..], expected[..]);
        assert_eq!(xattr_count(0), 0);
        assert_eq!(xattr_count(12), 1);
    }
}
