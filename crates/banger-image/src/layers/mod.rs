//! Layers in, one base out.
//!
//! [`BaseWriter`] takes the layers of an image bottom-up, each as a stream, and writes one EROFS
//! file: content goes out as it arrives, the tree is kept in memory and written at the end, the
//! superblock last of all. What a later layer hides is punched out of the file.
//!
//! ```text
//! layer ─ decompress ─ tar::Reader ─ Merge ─┬─ content ──────────► file
//!                                           └─ Tree ─ erofs::write ─► file
//! ```
//!
//! What layers mean here, where the OCI specification leaves it open:
//! - A path is relative to the image's root, whatever it begins with. `..` is refused.
//! - Parents that are symlinks are followed inside the tree, as a process in the image would.
//!   The last component is never followed. Missing parents are made: mode 0755, root's, of 1970.
//! - A whiteout and an opaque marker remove what *lower* layers left under a name, wherever in the
//!   layer they stand. What this layer made, linked or made something in, stays.
//! - A directory over a directory replaces its attributes and keeps its content; anything else
//!   over anything replaces it. A file of a lower layer that is a parent here becomes a directory.
//! - `.wh..wh.*` other than the opaque marker is bookkeeping of aufs and is skipped.
//! - Attributes and devices which overlayfs would obey never reach the base: a character device
//!   0:0 is refused, and so are `trusted.overlay.*` and `user.overlay.*`, except those which only
//!   book-keep (origin, impure, nlink, upper, uuid, protattr): these are dropped. Attributes of a
//!   namespace that Linux has not (`com.apple.*`) are dropped too; the summary names them.
//!
//! Limits: [`crate::limits::Limits`], 40 symlinks in a path, files of 1 PiB, symlink targets of
//! 4095 bytes. Hard links take nothing from their own header: the first name's attributes stay.

mod attributes;
mod body;
mod error;
mod merge;
mod output;
mod path;
mod resolve;
pub(crate) mod tree;
mod writer;

pub use error::{BaseError, EntryError};
pub use output::BaseFile;
pub(crate) use output::Output;
pub use writer::{BaseSummary, BaseWriter, LayerSummary, base_digest};
