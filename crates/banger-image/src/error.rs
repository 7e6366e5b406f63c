//! Why an image could not be had.
//!
//! Each error says what failed on what; [`ImageError::kind`] says what kind of failure it is and
//! [`ImageError::hint`] what to do. Sources are kept apart and not repeated in the text.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{Digest, DigestError};
use crate::platform::Platform;
use crate::reference::ReferenceError;

/// What kind of failure an [`ImageError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageErrorKind {
    /// What was asked for is malformed or names several things.
    InvalidArgument,
    NotFound,
    Unauthorized,
    RateLimited,
    Unreachable,
    Corrupt,
    InvalidImage,
    UnsupportedPlatform,
    TooLarge,
    NoSpace,
    /// The client's stream ended before the archive did.
    SourceBroken,
    Io,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{text:?} is not an image reference")]
    InvalidReference {
        text: String,
        #[source]
        source: ReferenceError,
    },
    #[error("{what} does not exist in {place}")]
    NotFound { what: String, place: String },
    #[error("the archive has no image tagged {tag:?}; it has {}", listed(.available))]
    TagNotFound { tag: String, available: Vec<String> },
    #[error("the archive holds several images: {}", listed(.available))]
    TagAmbiguous { available: Vec<String> },
    #[error("{registry} refuses access to {what}{}", appended(.detail))]
    Unauthorized {
        registry: String,
        what: String,
        /// What the registry says about it.
        detail: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    #[error("{registry} limits the rate of requests and still does after waiting")]
    RateLimited {
        registry: String,
        /// What the registry asked for in its last answer.
        retry_after: Option<Duration>,
    },
    #[error("cannot fetch {what} from {registry}")]
    Unreachable {
        registry: String,
        what: String,
        #[source]
        source: TransportError,
    },
    #[error("{what} is corrupt")]
    Corrupt {
        what: String,
        #[source]
        source: Corruption,
    },
    #[error("{what} is not a valid image")]
    Invalid {
        what: String,
        #[source]
        source: InvalidImage,
    },
    #[error("{what} has no variant for {wanted}; it has {}", listed(.available))]
    UnsupportedPlatform {
        what: String,
        wanted: Platform,
        available: Vec<String>,
    },
    #[error("{what} is larger than {limit} allows ({max} bytes)")]
    TooLarge {
        what: String,
        /// Name of the limit.
        limit: &'static str,
        max: u64,
    },
    #[error("no space left to {deed} {}", path.display())]
    NoSpace { deed: &'static str, path: PathBuf },
    #[error("cannot {deed} {}", path.display())]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the stream of {what} broke off")]
    SourceBroken {
        what: String,
        #[source]
        source: io::Error,
    },
}

/// Why a request to a registry got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("the connection failed: {}", innermost(.0))]
    Connection(reqwest::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the registry answered {status}{}", appended(.detail))]
    Status { status: u16, detail: String },
    #[error("the registry's answer makes no sense: {0}")]
    Protocol(String),
    #[error("the connection broke after {received} of {expected} bytes")]
    Truncated { received: u64, expected: u64 },
    #[error("TLS cannot be set up: {}", innermost(.0))]
    Tls(reqwest::Error),
}

/// Bytes that are not what they are said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    #[error("its digest is {found}, not {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("it has {found} bytes, not {expected}")]
    Size { expected: u64, found: u64 },
    #[error("it has more than {expected} bytes")]
    TooLong { expected: u64 },
    #[error("its uncompressed digest is {found}, not {expected} as the image's configuration says")]
    DiffId { expected: Digest, found: Digest },
}

/// A rule of the image formats that is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImage {
    #[error("{document} cannot be read: {reason}")]
    Json {
        document: &'static str,
        reason: String,
    },
    #[error("{document} names a bad digest: {reason}")]
    Digest {
        document: &'static str,
        reason: DigestError,
    },
    #[error("the manifest's type {0:?} is not supported")]
    ManifestType(String),
    #[error("the manifest says it is {body:?} but was served as {header:?}")]
    ConflictingTypes { body: String, header: String },
    #[error("it is a manifest of schema 1, which was retired in 2017")]
    SchemaOne,
    #[error("the manifest lists both layers and manifests")]
    AmbiguousManifest,
    #[error("its configuration has type {0:?}: it is not a container image")]
    NotAnImage(String),
    #[error("a layer has type {0:?}, which is not supported")]
    LayerType(String),
    #[error("indexes are nested more than {0} deep")]
    NestedTooDeep(usize),
    #[error("it has {layers} layers but {diff_ids} diff ids")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("{document} is {what}")]
    Document {
        document: &'static str,
        what: String,
    },
    #[error("the archive has no {0}")]
    MissingMember(String),
    #[error("the archive's member {name:?} {reason}")]
    BadMember { name: String, reason: String },
    #[error("layer {number}: {reason}")]
    Layer { number: usize, reason: String },
}

impl ImageError {
    pub fn kind(&self) -> ImageErrorKind {
        use ImageErrorKind as K;
        match self {
            ImageError::InvalidReference { .. } | ImageError::TagAmbiguous { .. } => {
                K::InvalidArgument
            }
            ImageError::NotFound { .. } | ImageError::TagNotFound { .. } => K::NotFound,
            ImageError::Unauthorized { .. } => K::Unauthorized,
            ImageError::RateLimited { .. } => K::RateLimited,
            ImageError::Unreachable { .. } => K::Unreachable,
            ImageError::Corrupt { .. } => K::Corrupt,
            ImageError::Invalid { .. } => K::InvalidImage,
            ImageError::UnsupportedPlatform { .. } => K::UnsupportedPlatform,
            ImageError::TooLarge { .. } => K::TooLarge,
            ImageError::NoSpace { .. } => K::NoSpace,
            ImageError::SourceBroken { .. } => K::SourceBroken,
            ImageError::Io { .. } => K::Io,
        }
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            ImageError::InvalidReference { .. } => {
                "write [REGISTRY[:PORT]/]NAME[:TAG][@sha256:DIGEST]".to_owned()
            }
            ImageError::NotFound { .. } => "check name and tag; private images may need \
                                            `docker login` or `skopeo login`"
                .to_owned(),
            ImageError::TagNotFound { .. } | ImageError::TagAmbiguous { .. } => {
                "name one of the tags after the file: FILE:TAG".to_owned()
            }
            ImageError::Unauthorized {
                registry,
                with_credentials: true,
                ..
            } => format!("log in again: `docker login {registry}`; or check the image's name"),
            ImageError::Unauthorized { registry, .. } => {
                format!("log in first: `docker login {registry}`; or check the image's name")
            }
            ImageError::RateLimited {
                retry_after: Some(after),
                ..
            } => format!("try again in {} s, or log in", after.as_secs().max(1)),
            ImageError::RateLimited { .. } => "try again later, or log in".to_owned(),
            ImageError::Unreachable {
                source: TransportError::Tls(_),
                ..
            } => "install the package ca-certificates".to_owned(),
            ImageError::Unreachable { .. } => "check the registry's name, the network and the \
                                               proxy variables of bangerd, then try again"
                .to_owned(),
            ImageError::Corrupt { .. } => {
                "try again; if it happens again, the image must be pushed or saved anew".to_owned()
            }
            ImageError::UnsupportedPlatform { .. } => {
                "choose an image that is built for this host".to_owned()
            }
            ImageError::TooLarge { limit, .. } => {
                format!("raise {limit} in bangerd's configuration if you trust the image")
            }
            ImageError::NoSpace { .. } => {
                "free some space, for example with `banger image prune`".to_owned()
            }
            ImageError::SourceBroken { .. } => "send the archive again".to_owned(),
            ImageError::Invalid { .. } | ImageError::Io { .. } => return None,
        })
    }

    /// An operation on a file failed.
    pub(crate) fn io(deed: &'static str, path: impl AsRef<Path>, source: io::Error) -> ImageError {
        let path = path.as_ref().to_owned();
        if is_no_space(&source) {
            ImageError::NoSpace { deed, path }
        } else {
            ImageError::Io { deed, path, source }
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, source: InvalidImage) -> ImageError {
        ImageError::Invalid {
            what: what.into(),
            source,
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, source: Corruption) -> ImageError {
        ImageError::Corrupt {
            what: what.into(),
            source,
        }
    }
}

/// A full disk, or a quota or file-size bound which comes to the same for the user.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// At most ten, so that a hostile index cannot make a message of a megabyte.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    match names.len() {
        0 => "none".to_owned(),
        count if count <= SHOWN => names.join(", "),
        count => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
    }
}

fn appended(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

/// reqwest's own texts are "error sending request for url (…)": the cause is at the bottom.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart() {
        for (code, expected) in [
            (28, ImageErrorKind::NoSpace),
            (122, ImageErrorKind::NoSpace),
            (27, ImageErrorKind::NoSpace),
            (13, ImageErrorKind::Io),
        ] {
            let error = ImageError::io("write", "/x", io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), expected, "{code}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let error = ImageError::TagAmbiguous {
            available: (0..5000).map(|number| format!("t{number}")).collect(),
        };
        assert!(error.to_string().ends_with("t9 and 4990 more"), "{error}");
    }
}
