//! Why bytes are not a tar archive we read.

/// A defect of the archive itself, found at the offset which the caller adds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    #[error("the archive ends in the middle of {what}")]
    Truncated { what: &'static str },
    #[error("the archive has no end marker")]
    NoEndMarker,
    #[error("the header's checksum is wrong")]
    Checksum,
    #[error("the header's {field} is not a number")]
    NotANumber { field: &'static str },
    #[error("the {field} {value} is out of range")]
    OutOfRange { field: &'static str, value: String },
    #[error("entries of type `{}` are not supported", flag.escape_ascii())]
    UnsupportedType { flag: u8 },
    #[error("an extended header of {size} bytes is longer than {max}")]
    ExtensionTooLong { size: u64, max: u64 },
    #[error("an extended header is malformed: {reason}")]
    BadExtension { reason: &'static str },
    #[error("a global extended header sets `{key}`")]
    GlobalExtension { key: String },
    #[error("the sparse map is malformed: {reason}")]
    BadSparseMap { reason: &'static str },
    #[error("a name contains a NUL byte")]
    NulInName,
    #[error("the access control list is malformed: {reason}")]
    BadAcl { reason: &'static str },
    #[error("the access control list names `{name}` without a numeric id")]
    NamedAcl { name: String },
    #[error("NFSv4 access control lists are not supported")]
    Nfs4Acl,
}

/// What was read, made fit for a message: printable and at most 64 characters.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(64)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
