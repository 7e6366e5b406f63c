//! The guest agent's binary on this host.
//!
//! Found once, at the daemon's start; read again when an upgrade has replaced it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use banger_host::command::Program;
use banger_image::initramfs::Agent;
use banger_protocol::build::BuildInfo;
use banger_protocol::error::{ApiError, ErrorKind};

/// Names the binary, before any place where it is looked for.
pub const VARIABLE: &str = "BANGER_AGENT";
const NAME: &str = "banger-agent";
/// Bound of asking the binary for its version.
const VERSION_BOUND: Duration = Duration::from_secs(5);

/// Where the binary may be, best first.
pub fn places(variable: Option<PathBuf>, executable: &Path) -> Vec<PathBuf> {
    if let Some(path) = variable {
        return vec![path];
    }
    let Some(directory) = executable.parent() else {
        return Vec::new();
    };
    let mut places = vec![directory.join(NAME)];
    if let Some(prefix) = directory.parent() {
        places.push(prefix.join("lib/banger").join(NAME));
    }
    places
}

/// Whether a file is still the one that was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Stamp> {
        let metadata = std::fs::metadata(path)?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The binary.
pub struct AgentProgram {
    places: Vec<PathBuf>,
    read: Mutex<Option<(Stamp, Agent)>>,
}

impl AgentProgram {
    pub fn new(places: Vec<PathBuf>) -> AgentProgram {
        AgentProgram {
            places,
            read: Mutex::new(None),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// `missing_dependency`, naming the places.
    pub fn path(&self) -> Result<&Path, ApiError> {
        self.places
            .iter()
            .find(|path| path.is_file())
            .map(PathBuf::as_path)
            .ok_or_else(|| {
                let places: Vec<String> = self
                    .places
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                ApiError::new(
                    ErrorKind::MissingDependency,
                    format!("the guest agent is not at {}", places.join(" nor at ")),
                )
                .hint("install banger-agent beside bangerd, or name it in BANGER_AGENT")
            })
    }

    /// The binary and its digest. Blocking.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    pub fn get(&self) -> Result<Agent, ApiError> {
        let path = self.path()?;
        let unreadable = |error: &dyn std::error::Error| {
            ApiError::new(
                ErrorKind::MissingDependency,
                format!("cannot read the guest agent {}: {error}", path.display()),
            )
        };
        let stamp = Stamp::of(path).map_err(|error| unreadable(&error))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((known, agent)) if *known == stamp && agent.path == path => Ok(agent.clone()),
            _ => {
                let agent = Agent::open(path).map_err(crate::kernel::failure)?;
                *read = Some((stamp, agent.clone()));
                Ok(agent)
            }
        }
    }

    /// What it says it is. An agent that cannot be asked is `unknown`.
    pub async fn build(&self) -> BuildInfo {
        let unknown = || BuildInfo {
            version: "unknown".to_owned(),
            commit: "unknown".to_owned(),
            built_at: "unknown".to_owned(),
        };
        let Ok(path) = self.path() else {
            return unknown();
        };
        let asked = Program::new(path)
            .arg("--version")
            .time_limit(VERSION_BOUND)
            .run()
            .await;
        match asked {
            Ok(output) => parse_version(&output.text()).unwrap_or_else(unknown),
            Err(error) => {
                tracing::warn!(%error, "the guest agent does not say its version");
                unknown()
            }
        }
    }
}

/// `banger-agent VERSION (COMMIT BUILT_AT)`.
fn parse_version(text: &str) -> Option<BuildInfo> {
    let rest = text.trim().strip_prefix(NAME)?.trim_start();
    let (version, rest) = rest.split_once(' ')?;
    let (commit, built_at) = rest
        .trim()
        .strip_prefix('(')?
        .strip_suffix(')')?
        .split_once(' ')?;
    Some(BuildInfo {
        version: version.to_owned(),
        commit: commit.to_owned(),
        built_at: built_at.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_order() {
        let bangerd = Path::new("/usr/local/bin/bangerd");
        assert_eq!(
            places(None, bangerd),
            [
                PathBuf::from("/usr/local/bin/banger-agent"),
                PathBuf::from("/usr/local/lib/banger/banger-agent")
            ]
        );
        assert_eq!(
            places(Some("/a/agent".into()), bangerd),
            [PathBuf::from("/a/agent")]
        );
    }

    #[test]
    fn a_missing_agent_names_where_it_was_looked_for() {
        let error = AgentProgram::new(vec!["/nowhere/a".into(), "/nowhere/b".into()])
            .get()
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::MissingDependency);
        assert!(error.message.contains("/nowhere/a nor at /nowhere/b"));
    }

    #[test]
    fn a_replaced_agent_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        std::fs::write(&path, "one").unwrap();
        let program = AgentProgram::new(vec![path.clone()]);
        let first = program.get().unwrap().digest;
        assert_eq!(program.get().unwrap().digest, first);
        let fresh = directory.path().join("new");
        std::fs::write(&fresh, "other").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert_ne!(program.get().unwrap().digest, first);
    }

    #[test]
    fn versions() {
        let build = parse_version("banger-agent 0.1.0 (abc123 2026-01-01T00:00:00Z)\n").unwrap();
        assert_eq!(build.version, "0.1.0");
        assert_eq!(build.commit, "abc123");
        assert_eq!(build.built_at, "2026-01-01T00:00:00Z");
        for bad in ["", "banger-agent", "banger-agent 1", "other 1 (a b)"] {
            assert!(parse_version(bad).is_none(), "{bad}");
        }
    }
}
