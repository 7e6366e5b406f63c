//! One private apt: its own lists, cache and status, the host's sources, keyrings and proxies.
//!
//! Nothing of the host's apt state is written, no hook of the host's configuration runs, and no
//! package counts as installed, so that what is offered depends on the sources alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::command::{CommandError, Program};

use super::stanza::{self, Stanza};
use super::{AptError, Source};
use crate::digest::Digest;
use crate::progress::Progress;

/// Bound of `apt-get update`: about 9 MB from a mirror, and whatever else the host has configured.
const UPDATE_LIMIT: Duration = Duration::from_secs(180);
/// Bound of one package's download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
/// Bound of what reads local files only.
const QUERY_LIMIT: Duration = Duration::from_secs(60);
/// How often a download's size is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A private apt in a directory that the caller owns and removes.
#[derive(Debug)]
pub struct AptSession {
    config: PathBuf,
    downloads: PathBuf,
    /// What the last update complained of, for the error of a package not found.
    complaints: String,
}

impl AptSession {
    /// Lays the directory out. `architecture` is dpkg's word (`amd64`).
    pub async fn create(
        directory: &Path,
        sources: &[Source],
        architecture: &str,
    ) -> Result<AptSession, AptError> {
        if sources.is_empty() {
            return Err(AptError::NoSources);
        }
        // apt changes to other directories, and its configuration has no quoting for '"'.
        let directory = std::path::absolute(directory).map_err(AptError::io("find", directory))?;
        let session = AptSession {
            config: directory.join("apt.conf"),
            downloads: directory.join("downloads"),
            complaints: String::new(),
        };
        let text = configuration(&directory, architecture)?;
        let sources: String = sources.iter().map(Source::render).collect();
        let made = tokio::task::spawn_blocking(move || lay_out(&directory, &text, &sources));
        made.await.map_err(|error| AptError::Io {
            deed: "lay out",
            path: session.config.clone(),
            source: std::io::Error::other(error),
        })??;
        Ok(session)
    }

    /// Fetches the indexes. A source that cannot be reached or verified is left out, as apt does,
    /// and is remembered for the error of a package that is then not found.
    pub async fn update(&mut self) -> Result<(), AptError> {
        let result = self
            .apt("apt-get")
            .arg("update")
            .time_limit(UPDATE_LIMIT)
            .run()
            .await;
        self.complaints = match result {
            Ok(output) => output.stderr,
            Err(CommandError::Failed { stderr, .. }) => stderr,
            Err(error @ CommandError::TimedOut { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if !self.complaints.is_empty() {
            tracing::debug!(complaints = self.complaints, "apt-get update");
        }
        Ok(())
    }

    /// The index entries of a package: the one apt would choose, then (`all`) the others, newest
    /// first.
    pub async fn show(&self, package: &str, all: bool) -> Result<Vec<Stanza>, AptError> {
        let result = self
            .apt("apt-cache")
            .arg("show")
            .arg(if all {
                "--all-versions"
            } else {
                "--no-all-versions"
            })
            .args(["--", package])
            .time_limit(QUERY_LIMIT)
            .run()
            .await;
        let stanzas = match result {
            Ok(output) => stanza::parse(&output.text()),
            // apt-cache says 100 both for "not found" and for a damaged state; the latter has
            // no other remedy than the former's.
            Err(CommandError::Failed { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        if stanzas.is_empty() {
            return Err(AptError::NotOffered {
                package: package.to_owned(),
                detail: self.complaints.clone(),
            });
        }
        Ok(stanzas)
    }

    /// Fetches one package file; apt has verified it when this returns, and so have we.
    pub async fn download(&self, entry: &Stanza, progress: &Progress) -> Result<PathBuf, AptError> {
        let field = |key: &str| entry.get(key).unwrap_or_default().to_owned();
        let (package, version) = (field("Package"), field("Version"));
        let size: Option<u64> = entry.get("Size").and_then(|size| size.parse().ok());
        let detail = format!("{package} {version}");
        progress.bytes("download", &detail, 0, size);
        let run = self
            .apt("apt-get")
            .args(["download", "--"])
            .arg(format!("{package}={version}"))
            .current_dir(&self.downloads)
            .time_limit(DOWNLOAD_LIMIT)
            .run();
        tokio::pin!(run);
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                result = &mut run => {
                    result?;
                    break;
                }
                _ = ticks.tick() => {
                    if let Some(file) = only_file(&self.downloads)
                        && let Ok(metadata) = file.metadata()
                    {
                        progress.bytes("download", &detail, metadata.len(), size);
                    }
                }
            }
        }
        let file = only_file(&self.downloads).ok_or_else(|| AptError::NotOffered {
            package: package.clone(),
            detail: self.complaints.clone(),
        })?;
        let promised = field("SHA256");
        let digest = tokio::task::spawn_blocking({
            let file = file.clone();
            move || Digest::of_reader(std::fs::File::open(file)?)
        })
        .await
        .map_err(std::io::Error::other)
        .and_then(|read| read)
        .map_err(AptError::io("read", &file))?
        .0;
        if digest.hex() != promised {
            return Err(AptError::Digest {
                file: file.to_string_lossy().into_owned(),
            });
        }
        Ok(file)
    }

    fn apt(&self, program: &str) -> Program {
        Program::new(program)
            .arg("-c")
            .arg(&self.config)
            .arg("-q=2")
            // Read before the host's configuration, which must not be replaced by a caller's.
            .env_remove("APT_CONFIG")
    }
}

/// The one file of a directory that only `apt-get download` writes to.
fn only_file(directory: &Path) -> Option<PathBuf> {
    std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.is_file())
}

fn lay_out(directory: &Path, configuration: &str, sources: &str) -> Result<(), AptError> {
    for sub in [
        "state/lists/partial",
        "cache/archives/partial",
        "sources",
        "downloads",
    ] {
        let path = directory.join(sub);
        std::fs::create_dir_all(&path).map_err(AptError::io("create", &path))?;
    }
    for (name, text) in [
        ("apt.conf", configuration),
        ("sources/host.sources", sources),
        ("status", ""),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(AptError::io("write", &path))?;
    }
    Ok(())
}

/// apt's configuration, read after the host's own: keyrings, proxies and pins stay the host's.
fn configuration(directory: &Path, architecture: &str) -> Result<String, AptError> {
    let dir = directory
        .to_str()
        .filter(|text| !text.contains(['"', '\\', '\n']))
        .ok_or_else(|| AptError::Io {
            deed: "use the name of",
            path: directory.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::InvalidInput),
        })?;
    Ok(format!(
        r#"// Hooks are for the host's own updates, not for ours.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Periodic;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
// Only package indexes: no translations, contents, icons.
#clear Acquire::IndexTargets;
Acquire::IndexTargets::deb::Packages {{
  MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
  flatMetaKey "Packages";
  ShortDescription "Packages";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
  flatDescription "$(RELEASE) Packages";
  Optional "0";
}};
Acquire::Languages "none";
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
// A source that does not answer must not hold up the others.
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
Dir::State "{dir}/state";
Dir::State::lists "{dir}/state/lists";
Dir::State::status "{dir}/status";
Dir::State::extended_states "{dir}/state/extended_states";
Dir::Cache "{dir}/cache";
Dir::Cache::archives "{dir}/cache/archives";
Dir::Log "{dir}/log";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources";
"#
    ))
}

/// The host's proxies for apt, each as a line of its configuration.
pub async fn proxies() -> Result<Vec<String>, AptError> {
    let output = Program::new("apt-config")
        .args(["dump", "--no-empty", "--format", "%F \"%v\";%n", "Acquire"])
        .env_remove("APT_CONFIG")
        .time_limit(QUERY_LIMIT)
        .run()
        .await?;
    Ok(proxy_lines(&output.text()))
}

fn proxy_lines(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| {
            let key = line.split(' ').next().unwrap_or_default().to_lowercase();
            let scheme = ["acquire::http::", "acquire::https::"];
            scheme.iter().any(|scheme| {
                key.strip_prefix(scheme)
                    .is_some_and(|rest| rest.starts_with("proxy"))
            })
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_are_taken() {
        let dump = "Acquire::cdrom::mount \"/media\";\nAcquire::http::Proxy \"http://p:3142\";\n\
                    Acquire::http::Proxy::local.host \"DIRECT\";\nAcquire::https::Timeout \"3\";\n\
                    Acquire::http::Proxy-Auto-Detect \"/usr/bin/auto-apt-proxy\";\n";
        assert_eq!(
            proxy_lines(dump),
            [
                "Acquire::http::Proxy \"http://p:3142\";",
                "Acquire::http::Proxy::local.host \"DIRECT\";",
                "Acquire::http::Proxy-Auto-Detect \"/usr/bin/auto-apt-proxy\";",
            ]
        );
    }

    #[test]
    fn a_directory_that_apt_cannot_name_is_refused() {
        assert!(configuration(Path::new("/a/b c"), "amd64").is_ok());
        assert!(configuration(Path::new("/a/\"b"), "amd64").is_err());
    }
}
