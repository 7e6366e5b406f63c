//! Packages from the host's own apt sources, as any user, without touching the host's apt state.
//!
//! What apt verifies, we need not: the chain from the archive's signing key over `InRelease` and
//! `Packages` to the package file is apt's, with the keyrings that the host's administrator trusts.
//! What we add is a private state directory, a refusal of sources that opt out of that chain
//! (`trusted=yes` and its kin), and a second look at the file's digest.
//!
//! Limits: Debian and what descends from it. Only binary packages of one architecture are seen.

pub mod session;
pub mod sources;
pub mod stanza;

use std::io;
use std::path::PathBuf;

use banger_host::command::CommandError;

pub use session::AptSession;
pub use sources::{Source, host_sources};

/// Why apt could not give what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    #[error("{program} is not installed")]
    NotInstalled { program: String },
    #[error("the host has no signed apt source")]
    NoSources,
    #[error("cannot read the apt source {path}")]
    ReadSources {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no signed apt source offers {package}{}", because(detail))]
    NotOffered { package: String, detail: String },
    #[error("apt failed")]
    Command(#[source] CommandError),
    #[error("the package file {file} has not the digest its index promises")]
    Digest { file: String },
    #[error("no space left to write {path}")]
    NoSpace { path: PathBuf },
    #[error("cannot {deed} {path}")]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn because(detail: &str) -> String {
    match detail.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

impl AptError {
    /// What the person who sees this error can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            AptError::NotInstalled { program } => format!(
                "`{program}` comes with Debian and its kin; elsewhere use `banger kernel import`"
            ),
            AptError::NoSources => {
                "look at /etc/apt/sources.list.d: sources with trusted=yes are not used".into()
            }
            AptError::NotOffered { .. } => {
                "is the mirror reachable? `apt-get update` and `apt-cache policy` tell more".into()
            }
            AptError::NoSpace { .. } => "free some space on that file system".into(),
            _ => return None,
        })
    }

    pub(crate) fn io(
        deed: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> AptError {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AptError::NoSpace { path },
            _ => AptError::Io { deed, path, source },
        }
    }
}

impl From<CommandError> for AptError {
    fn from(error: CommandError) -> AptError {
        match error {
            CommandError::NotFound { program } => AptError::NotInstalled { program },
            other => AptError::Command(other),
        }
    }
}
