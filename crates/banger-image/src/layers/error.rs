//! Why a base could not be made of its layers.

use std::io;

use crate::decompress::StreamError;
use crate::digest::Digest;
use crate::tar::TarError;

/// What ended the import. The base file is then without a superblock and of no use.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    Stream(StreamError),
    #[error("the layer is not a valid tar archive at byte {offset}")]
    Tar {
        offset: u64,
        #[source]
        source: TarError,
    },
    #[error("the layer's entry `{path}` is refused")]
    Entry {
        path: String,
        #[source]
        source: EntryError,
    },
    #[error("the image has more than {max} {what}")]
    Limit { what: &'static str, max: u64 },
    #[error("the layer's content has the digest {found} instead of {expected}")]
    WrongDiffId { expected: Digest, found: Digest },
    #[error("cannot write the base")]
    Write(#[source] io::Error),
    #[error("an earlier layer failed")]
    Poisoned,
}

/// Why one entry cannot be part of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("its path contains `..`")]
    DotDot,
    #[error("its path is longer than {max} bytes")]
    PathTooLong { max: usize },
    #[error("a component of its path is longer than 255 bytes")]
    NameTooLong,
    #[error("a name contains a NUL byte")]
    Nul,
    #[error("it is the root directory, but not a directory")]
    RootNotDirectory,
    #[error("`{name}` is reserved for whiteouts")]
    ReservedName { name: String },
    #[error("its parent `{name}` is not a directory")]
    ParentNotDirectory { name: String },
    #[error("its path has too many levels of symbolic links")]
    SymlinkLoop,
    #[error("it is a hard link to `{target}`, which does not exist")]
    LinkToNothing { target: String },
    #[error("it is a hard link to the directory `{target}`")]
    LinkToDirectory { target: String },
    #[error("the target of a link is refused")]
    LinkTarget(#[source] Box<EntryError>),
    #[error("its symlink target is empty or longer than 4095 bytes")]
    SymlinkTarget,
    #[error("a character device 0:0 is how overlayfs marks a whiteout")]
    WhiteoutDevice,
    #[error("overlayfs would obey its attribute `{name}`")]
    OverlayAttribute { name: String },
    #[error("its attribute `{name}` is refused: {reason}")]
    Attribute { name: String, reason: &'static str },
    #[error("its size of {size} bytes is more than {max}")]
    FileTooLong { size: u64, max: u64 },
}

/// A path or name fit for a message: printable, and not longer than 256 characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 256;
    let text = String::from_utf8_lossy(bytes);
    let mut printable: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        printable.push('…');
    }
    printable
}
