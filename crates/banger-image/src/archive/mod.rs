//! Image archives: `oci-archive` (an OCI layout as a tar) and `docker-archive` (`docker save`).
//!
//! An archive arrives as one stream whose members may stand in any order, so its blobs are spooled
//! to disk first, each hashed on the way; then one image of it is selected.
//!
//! ```text
//! stream ──► spool: members by name, blobs by digest ──► select: config, layers, diff ids
//! ```
//!
//! The archive as a whole may be compressed with gzip or zstd. Newer `docker save` writes both
//! layouts into one archive; each is read by the rules of the kind that was asked for.
//!
//! Limits: members are bounded in number, documents in size, all bytes together by the caller.

mod docker;
mod layout;
mod spool;

use crate::digest::Digest;
use crate::error::InvalidImage;
use crate::manifest::Descriptor;

pub(crate) use spool::{Spool, spool};

/// The image that was selected.
#[derive(Debug)]
pub(crate) struct Selected {
    pub manifest_digest: Option<Digest>,
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
}

pub(crate) use docker::select as select_docker;
pub(crate) use layout::select as select_oci;

fn bad_member(name: &str, reason: impl Into<String>) -> InvalidImage {
    InvalidImage::BadMember {
        name: name.chars().take(200).collect(),
        reason: reason.into(),
    }
}
