//! Writes the tree as EROFS, the read-only file system of the base.
//!
//! ```text
//! block 0          1 …                         meta_blkaddr …
//! ┌────────────┬──────────────┬─────────────┬────────────────────────────────┐
//! │ superblock │ file content │ directories │ inodes, xattrs, maps and tails │
//! └────────────┴──────────────┴─────────────┴────────────────────────────────┘
//! written last   in tar order   breadth first, root first
//! ```
//!
//! Uncompressed, blocks of 4 KiB, extended (64-byte) inodes, attributes inline. Content is one run
//! of blocks (plain), one run and a tail behind the inode (inline), or, only where there are
//! holes, a map of chunks. Linux 5.15 and later mount it; without holes 5.4 does.
//!
//! The bytes depend on the tree and on nothing else: no clock, no hash order.
//!
//! Source of the format: `fs/erofs/erofs_fs.h` of Linux. Limits: 2^32 blocks (16 TiB), 2^32
//! inode slots of 32 bytes (128 GiB of metadata), 256 KiB of attributes per file.

mod directory;
mod format;
mod layout;
mod write;
pub(crate) mod xattr;

pub(crate) use format::{BLOCK_BYTES, INODE_BYTES, MAX_CHUNK_BITS, MAX_SYMLINK, fits_behind_inode};
pub(crate) use write::write;
pub(crate) use xattr::XattrName;
