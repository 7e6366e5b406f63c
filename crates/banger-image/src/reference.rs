//! Image references with Docker's defaulting rules: what `docker pull TEXT` would mean.
//!
//! ```text
//! [DOMAIN[:PORT]/]PATH[:TAG][@sha256:HEX]     debian  ->  docker.io/library/debian:latest
//! ```
//!
//! The first path component is a domain when it holds a `.`, a `:` or an upper-case letter, or is
//! `localhost`; without one the domain is `docker.io`, where a name of one component lies in
//! `library/`. Where neither tag nor digest is given the tag is `latest`; where both are, the
//! digest decides what is fetched.
//!
//! Limits: digests other than SHA-256 are refused.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The domain of references that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// Where references to [`DEFAULT_DOMAIN`] are really served.
const DEFAULT_REGISTRY: &str = "registry-1.docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest path, in bytes, that registries accept.
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;
/// Longest local image name.
const MAX_LOCAL_NAME: usize = 128;

/// A checked, complete image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("it is empty")]
    Empty,
    #[error("the repository name must be lower-case")]
    UpperCase,
    #[error("a bare 64-digit hex string is an image id, not a name")]
    BareId,
    #[error("{0:?} is not a registry host")]
    Domain(String),
    #[error(
        "{0:?} is not a repository name: use a-z and 0-9, separated by '.', '_', '__', '-' or '/'"
    )]
    Path(String),
    #[error("the repository name is longer than 255 bytes")]
    PathTooLong,
    #[error(
        "{0:?} is not a tag: use 1 to 128 of a-z, A-Z, 0-9, '_', '.' and '-', not beginning with '.' or '-'"
    )]
    Tag(String),
    #[error("{0}")]
    Digest(DigestError),
}

impl Reference {
    /// The registry's name as people write it, `docker.io` included.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Host and port that serve it.
    pub fn registry(&self) -> &str {
        if self.domain == DEFAULT_DOMAIN {
            DEFAULT_REGISTRY
        } else {
            &self.domain
        }
    }

    /// Path of the repository within its registry, `library/debian`.
    pub fn repository(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Whether the registry runs on this host: only then is plain HTTP spoken.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.domain)
    }

    /// Local name of an image pulled without `--name`: the last path component and the tag
    /// (`debian-bookworm`, `alpine-latest`), or the first 12 digits of the digest where there is
    /// no tag. `latest` is kept: the name then tells what a later pull of it will move.
    ///
    /// Always a valid local image name: lower-case, at most 128 bytes. Two references may share
    /// one; who keeps it is decided where images are recorded.
    pub fn default_name(&self) -> String {
        let last = self.path.rsplit('/').next().unwrap_or(&self.path);
        let suffix = match (&self.tag, &self.digest) {
            (Some(tag), _) => tag.to_ascii_lowercase(),
            (None, Some(digest)) => digest.hex()[..12].to_owned(),
            (None, None) => DEFAULT_TAG.to_owned(),
        };
        let mut name = format!("{last}-{suffix}");
        name.truncate(MAX_LOCAL_NAME);
        name
    }
}

/// Whether a `host[:port]` names this host itself.
pub(crate) fn is_loopback(domain: &str) -> bool {
    let (host, _) = split_port(domain);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
        || bare
            .unwrap_or(host)
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.is_loopback())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && Digest::from_hex(text).is_ok() {
            return Err(ReferenceError::BareId);
        }
        let (domain, rest) = split_domain(text);
        check_domain(&domain)?;
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (rest.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => {
                check_tag(tag)?;
                (path, Some(tag.to_owned()))
            }
            None => (name, None),
        };
        check_path(path)?;
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Ok(Reference {
            domain,
            path: path.to_owned(),
            tag,
            digest,
        })
    }
}

/// The canonical text: domain always, tag or digest always.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Domain, and all that follows it. An upper-case letter makes a domain, since no repository name
/// may have one.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        None => (DEFAULT_DOMAIN, text),
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        Some(_) => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        (domain.to_owned(), format!("{OFFICIAL_PREFIX}{rest}"))
    } else {
        (domain.to_owned(), rest.to_owned())
    }
}

/// Host and port. The colons of a bracketed IPv6 address do not count.
fn split_port(domain: &str) -> (&str, Option<&str>) {
    match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    }
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let (host, port) = split_port(domain);
    let host_fits = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => host.split('.').all(is_domain_label),
    };
    let port_fits = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    if host_fits && port_fits && domain.len() <= MAX_PATH {
        Ok(())
    } else {
        Err(ReferenceError::Domain(shortened(domain)))
    }
}

fn is_domain_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase);
    }
    if !path.split('/').all(is_path_component) {
        return Err(ReferenceError::Path(shortened(path)));
    }
    if path.len() > MAX_PATH {
        return Err(ReferenceError::PathTooLong);
    }
    Ok(())
}

/// Runs of a-z and 0-9, separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    word(first)
        && word(last)
        && bytes
            .split(word)
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let fits = (1..=MAX_TAG).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(ReferenceError::Tag(shortened(tag)))
    }
}

/// An error must not carry a megabyte of someone's input.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
