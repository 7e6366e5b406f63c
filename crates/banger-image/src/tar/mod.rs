//! Reads a tar archive of any dialect a layer comes in: v7, ustar, GNU, pax, star's prefix; GNU
//! sparse files in all four encodings.
//!
//! This module knows headers and bytes. It does not know what a whiteout is, and it checks a path
//! only for what the format cannot carry: what a path means is decided in `layers`.
//!
//! Limits: an extended header is read into memory and bounded by [`MAX_EXTENSION_BYTES`], a sparse
//! map by [`MAX_SEGMENTS`]. Of global pax headers only comments are accepted, because readers
//! disagree on whether they apply. Multi-volume archives and incremental dumps are refused.

mod acl;
mod error;
mod header;
mod number;
mod pax;
mod reader;
mod sparse;

pub use error::TarError;
pub(crate) use reader::{Piece, ReadError, Reader};

/// Size of a header, and the unit to which file content is padded.
pub(crate) const BLOCK: usize = 512;
/// Longest extended header: xattrs of 64 KiB must fit, a hostile gigabyte must not.
pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Most data segments of one sparse file (4 MiB of memory).
pub(crate) const MAX_SEGMENTS: usize = 1 << 18;

/// Seconds since 1970, rounded down, and the nanoseconds above them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// An extended attribute by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// A regular file of this apparent size; its content follows as pieces.
    File {
        size: u64,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// One member of the archive, with every extended header applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written: neither empty components nor `.` nor `..` are resolved.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub xattrs: Vec<Xattr>,
}
