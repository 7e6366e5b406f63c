//! The catalog: images and kernels that have a short name and need no reference.
//!
//! It is a TOML file compiled in, which a file named in the configuration extends. Where a daemon
//! resolves what a user typed, names of the catalog come before registry references.
//!
//! Limits: an entry says how something is got, never what it hashes to; the chain of trust is
//! the builder's (apt's signatures).

pub mod debian;
pub mod recipe;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::kernel::KernelName;

const COMPILED_IN: &str = include_str!("../catalog.toml");

/// Everything that can be got by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// The image of a VM for which none is named; always an entry or a reference.
    pub default_image: String,
    /// The kernel that is pulled when there is none yet; always an entry.
    pub default_kernel: String,
    pub images: Vec<ImageEntry>,
    pub kernels: Vec<KernelEntry>,
}

/// An image that is built on this host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    pub distro: String,
    /// dpkg's word for the architecture.
    pub arch: String,
    pub builder: Builder,
    /// The release, by its code name.
    pub suite: String,
    /// mmdebstrap's `--variant`.
    #[serde(default = "minbase")]
    pub variant: String,
    #[serde(default = "main_component")]
    pub components: Vec<String>,
    #[serde(default)]
    pub include: Vec<String>,
    /// The mirror where the host has no source of this distribution.
    pub mirror: String,
    /// The keys that sign it.
    pub keyring: PathBuf,
}

fn minbase() -> String {
    "minbase".into()
}

fn main_component() -> Vec<String> {
    vec!["main".into()]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Builder {
    Mmdebstrap,
}

/// A kernel that can be pulled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelEntry {
    pub name: KernelName,
    #[serde(default)]
    pub description: String,
    pub distro: String,
    /// dpkg's word for the architecture.
    pub arch: String,
    pub kind: KernelKind,
    pub package: String,
    /// What the kernel's version begins with, as whole numbers: `6.1` is not `6.12`.
    pub series: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelKind {
    DebianPackage,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogFile {
    default_image: Option<String>,
    default_kernel: Option<String>,
    #[serde(default)]
    image: Vec<ImageEntry>,
    #[serde(default)]
    kernel: Vec<KernelEntry>,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot read the catalog {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the catalog {path} is not valid")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("the catalog {path}: {key} = {value:?}: {reason}")]
    Invalid {
        path: PathBuf,
        /// Where, as in `image.debian-12.suite`.
        key: String,
        value: String,
        reason: &'static str,
    },
}

impl Catalog {
    /// The compiled-in catalog, extended by a file where the configuration names one.
    pub fn load(extension: Option<&Path>) -> Result<Catalog, CatalogError> {
        let here = Path::new("(compiled in)");
        let mut catalog = Catalog {
            default_image: String::new(),
            default_kernel: String::new(),
            images: Vec::new(),
            kernels: Vec::new(),
        };
        catalog.extend(here, COMPILED_IN)?;
        if let Some(path) = extension {
            let text = std::fs::read_to_string(path).map_err(|source| CatalogError::Read {
                path: path.to_owned(),
                source,
            })?;
            catalog.extend(path, &text)?;
        }
        Ok(catalog)
    }

    pub fn image(&self, name: &str) -> Option<&ImageEntry> {
        self.images.iter().find(|entry| entry.name == name)
    }

    pub fn kernel(&self, name: &str) -> Option<&KernelEntry> {
        self.kernels
            .iter()
            .find(|entry| entry.name.as_str() == name)
    }

    fn extend(&mut self, path: &Path, text: &str) -> Result<(), CatalogError> {
        let file: CatalogFile = toml::from_str(text).map_err(|source| CatalogError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        check(path, &file)?;
        for entry in file.image {
            self.images.retain(|old| old.name != entry.name);
            self.images.push(entry);
        }
        for entry in file.kernel {
            self.kernels.retain(|old| old.name != entry.name);
            self.kernels.push(entry);
        }
        if let Some(name) = file.default_image {
            self.default_image = name;
        }
        if let Some(name) = file.default_kernel {
            if self.kernel(&name).is_none() {
                return Err(CatalogError::Invalid {
                    path: path.to_owned(),
                    key: "default_kernel".into(),
                    value: name,
                    reason: "there is no kernel of this name in the catalog",
                });
            }
            self.default_kernel = name;
        }
        Ok(())
    }
}

/// Everything that becomes an argument of a program is checked here, once.
fn check(path: &Path, file: &CatalogFile) -> Result<(), CatalogError> {
    let invalid = |key: String, value: &str, reason| {
        Err(CatalogError::Invalid {
            path: path.to_owned(),
            key,
            value: value.to_owned(),
            reason,
        })
    };
    let mut names = BTreeSet::new();
    for entry in &file.image {
        let key = |field: &str| format!("image.{}.{field}", entry.name);
        if entry.name.parse::<KernelName>().is_err() || entry.name.contains('_') {
            return invalid(
                key("name"),
                &entry.name,
                "not 1 to 64 letters, digits, '.' and '-'",
            );
        }
        if !names.insert(entry.name.as_str()) {
            return invalid(key("name"), &entry.name, "given twice");
        }
        let words = [
            ("arch", &entry.arch),
            ("suite", &entry.suite),
            ("variant", &entry.variant),
        ]
        .into_iter()
        .chain(entry.include.iter().map(|word| ("include", word)))
        .chain(entry.components.iter().map(|word| ("components", word)));
        for (field, word) in words {
            if !is_word(word) {
                return invalid(
                    key(field),
                    word,
                    "not a word of letters, digits, '.', '+' and '-'",
                );
            }
        }
        if !(entry.mirror.starts_with("http://") || entry.mirror.starts_with("https://"))
            || entry.mirror.contains(char::is_whitespace)
        {
            return invalid(key("mirror"), &entry.mirror, "not an http(s) address");
        }
        if !entry.keyring.is_absolute() || entry.keyring.to_string_lossy().contains([' ', '\n']) {
            return invalid(
                key("keyring"),
                &entry.keyring.to_string_lossy(),
                "not an absolute path without blanks",
            );
        }
    }
    let mut names = BTreeSet::new();
    for entry in &file.kernel {
        let key = |field: &str| format!("kernel.{}.{field}", entry.name);
        if !names.insert(&entry.name) {
            return invalid(key("name"), entry.name.as_str(), "given twice");
        }
        for (field, word) in [("arch", &entry.arch), ("package", &entry.package)] {
            if !is_word(word) {
                return invalid(
                    key(field),
                    word,
                    "not a word of letters, digits, '.', '+' and '-'",
                );
            }
        }
        let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !entry.series.split('.').all(numeric) {
            return invalid(key("series"), &entry.series, "not numbers joined by '.'");
        }
    }
    Ok(())
}

/// Debian's rule for package names, which covers suites and architectures as well. No word begins
/// with a dash, so none can be taken for an option.
fn is_word(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-'))
}

/// Whether `6.1.0-56-cloud-amd64` is of series `6.1`.
pub(crate) fn is_of_series(version: &str, series: &str) -> bool {
    version
        .strip_prefix(series)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
