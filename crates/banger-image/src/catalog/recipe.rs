//! Builds a catalog image: mmdebstrap writes a root file system as a tar stream, straight into
//! whoever reads it. Nothing is unpacked here and nothing is kept.
//!
//! Root is not needed where the host lets a user have user namespaces and ids of its own; where it
//! does not, a fake root serves, and where that is missing too, the error says what to install.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use banger_host::command::{CommandError, Program, Stream, find, is_installed};
use tokio::io::{AsyncRead, ReadBuf};

use super::{ImageEntry, debian};
use crate::apt::{self, AptError};
use crate::progress::Progress;

/// Bound of the whole build; a minimal Debian takes 20 to 40 s from a near mirror.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// All time stamps are cut to this, so that two builds from one mirror state give the same bytes.
/// The release day of Debian 12; any fixed moment in the past does.
const SOURCE_DATE_EPOCH: &str = "1686355200";

/// Bounds the journal of an image that has systemd. A disk costs what was written to it, and
/// journald's hash tables, which it fills from end to end, are as large as its largest file could
/// need: 3 MiB on a disk of 8 GiB, and 0.3 with these bounds.
const JOURNAL: &str = r#"[ ! -d "$1/etc/systemd" ] || {
    install -d -m 755 "$1/etc/systemd/journald.conf.d" &&
    printf '[Journal]\nSystemMaxUse=64M\nSystemMaxFileSize=8M\n' \
        > "$1/etc/systemd/journald.conf.d/00-banger.conf" &&
    chmod 644 "$1/etc/systemd/journald.conf.d/00-banger.conf"
}"#;

#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{program} is not installed")]
    NotInstalled { program: &'static str },
    #[error("{image} is for {wanted}, and this host is {host}")]
    ForeignArchitecture {
        image: String,
        wanted: String,
        host: String,
    },
    #[error("an ordinary user cannot build {image} on this host: {reason}")]
    NoUserMode { image: String, reason: &'static str },
    #[error("the keyring {} is missing", path.display())]
    NoKeyring { path: std::path::PathBuf },
    #[error("the mirror of {image} cannot be reached")]
    Network {
        image: String,
        #[source]
        source: CommandError,
    },
    #[error("no space left to build {image}")]
    NoSpace {
        image: String,
        #[source]
        source: CommandError,
    },
    #[error("cannot read the host's apt sources")]
    Sources(#[source] AptError),
    #[error("cannot build {image}")]
    Build {
        image: String,
        #[source]
        source: CommandError,
    },
}

impl RecipeError {
    /// What the person who sees this error can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            RecipeError::NotInstalled { program } => format!("`apt-get install {program}`"),
            RecipeError::NoUserMode { .. } => {
                "`apt-get install uidmap` and a line for the user in /etc/subuid and /etc/subgid; \
                 or `apt-get install fakechroot fakeroot`; or let the daemon run as root"
                    .into()
            }
            RecipeError::NoKeyring { .. } => "`apt-get install debian-archive-keyring`".into(),
            RecipeError::Network { .. } => {
                "does `apt-get update` work on this host? Try again later".into()
            }
            RecipeError::NoSpace { .. } => {
                "free some space in the directory for temporary files (TMPDIR)".into()
            }
            RecipeError::Sources(source) => return source.hint(),
            _ => return None,
        })
    }
}

/// How mmdebstrap gets a root directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Root,
    Unshare,
    Fakechroot,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Root => "root",
            Mode::Unshare => "unshare",
            Mode::Fakechroot => "fakechroot",
        }
    }
}

/// What decides the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    pub root: bool,
    pub user_namespaces: bool,
    pub uidmap: bool,
    pub subordinate_ids: bool,
    pub fakechroot: bool,
}

impl Surroundings {
    pub fn probe() -> Surroundings {
        let user = user_name();
        Surroundings {
            root: rustix::process::geteuid().is_root(),
            user_namespaces: user_namespaces_allowed(),
            uidmap: is_installed("newuidmap") && is_installed("newgidmap"),
            subordinate_ids: ["/etc/subuid", "/etc/subgid"].iter().all(|path| {
                std::fs::read_to_string(path)
                    .is_ok_and(|text| has_subordinate_ids(&text, user.as_deref()))
            }),
            fakechroot: is_installed("fakechroot") && is_installed("fakeroot"),
        }
    }
}

/// The mode to build in, or why there is none.
pub fn mode(host: Surroundings) -> Result<Mode, &'static str> {
    if host.root {
        return Ok(Mode::Root);
    }
    let reason = if !host.user_namespaces {
        "it forbids user namespaces"
    } else if !host.uidmap {
        "newuidmap is not installed"
    } else if !host.subordinate_ids {
        "the user has no subordinate ids"
    } else {
        return Ok(Mode::Unshare);
    };
    if host.fakechroot {
        return Ok(Mode::Fakechroot);
    }
    Err(reason)
}

/// `NAME:FIRST:COUNT` lines; systems images need 65536 ids.
fn has_subordinate_ids(text: &str, user: Option<&str>) -> bool {
    text.lines().any(|line| {
        let mut fields = line.split(':');
        user.is_some()
            && fields.next() == user
            && fields
                .next()
                .is_some_and(|first| first.parse::<u32>().is_ok())
            && fields
                .next()
                .and_then(|count| count.trim().parse::<u32>().ok())
                .is_some_and(|count| count >= 65_536)
    })
}

fn user_name() -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The switches by which kernels and distributions forbid them; a missing file forbids nothing.
fn user_namespaces_allowed() -> bool {
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && number("/proc/sys/user/max_user_namespaces") != Some(0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") != Some(1)
}

/// The tar stream of an image being built. Dropping it ends the build.
///
/// Reading to the end proves nothing: only [`RecipeStream::finish`] tells whether the image is whole.
pub struct RecipeStream {
    image: String,
    stream: Stream,
}

impl AsyncRead for RecipeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl RecipeStream {
    /// Waits for the builder and says whether it succeeded. To be called before what was read
    /// is published.
    pub async fn finish(self) -> Result<(), RecipeError> {
        let image = self.image;
        self.stream
            .finish()
            .await
            .map_err(|source| failed(image, source))
    }
}

/// Starts the build of `entry`.
pub async fn open(entry: &ImageEntry, progress: &Progress) -> Result<RecipeStream, RecipeError> {
    let host = host_architecture();
    if entry.arch != host {
        return Err(RecipeError::ForeignArchitecture {
            image: entry.name.clone(),
            wanted: entry.arch.clone(),
            host: host.to_owned(),
        });
    }
    if find("mmdebstrap").is_none() {
        return Err(RecipeError::NotInstalled {
            program: "mmdebstrap",
        });
    }
    let mode = mode(Surroundings::probe()).map_err(|reason| RecipeError::NoUserMode {
        image: entry.name.clone(),
        reason,
    })?;
    progress.stage("resolve", "the host's apt sources");
    let host_sources = match apt::host_sources().await {
        Ok(sources) => sources,
        // The catalog's own mirror serves then.
        Err(AptError::NoSources) => Vec::new(),
        Err(error) => return Err(RecipeError::Sources(error)),
    };
    let sources = debian::sources(entry, &host_sources);
    if let Some(path) = missing_keyring(&sources) {
        return Err(RecipeError::NoKeyring { path });
    }
    let proxies = apt::session::proxies()
        .await
        .map_err(RecipeError::Sources)?;
    progress.stage(
        "build",
        &format!("{} with mmdebstrap ({})", entry.name, mode.word()),
    );
    let stream = Program::new("mmdebstrap")
        .args(arguments(entry, mode, &proxies))
        .stdin_bytes(sources)
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env_remove("APT_CONFIG")
        .time_limit(BUILD_LIMIT)
        .stream()
        .map_err(|source| failed(entry.name.clone(), source))?;
    Ok(RecipeStream {
        image: entry.name.clone(),
        stream,
    })
}

fn arguments(entry: &ImageEntry, mode: Mode, proxies: &[String]) -> Vec<String> {
    let mut args = vec![
        format!("--mode={}", mode.word()),
        format!("--variant={}", entry.variant),
        format!("--architectures={}", entry.arch),
        "--format=tar".into(),
        // Indexes and package files are removed by mmdebstrap itself.
        "--aptopt=Acquire::Languages \"none\"".into(),
        "--aptopt=Acquire::Retries \"3\"".into(),
        "--aptopt=Acquire::http::Timeout \"30\"".into(),
        // What a base image has no use for is not read by anybody and costs a third of it.
        "--customize-hook=rm -rf \"$1\"/var/cache/debconf/*-old \"$1\"/var/lib/dpkg/*-old \
         \"$1\"/var/log/apt \"$1\"/var/log/*.log"
            .into(),
        format!("--customize-hook={JOURNAL}"),
    ];
    if !entry.include.is_empty() {
        args.push(format!("--include={}", entry.include.join(",")));
    }
    args.extend(proxies.iter().map(|option| format!("--aptopt={option}")));
    // Suite, target, sources: `-` is standard output, then standard input.
    args.extend([entry.suite.clone(), "-".into(), "-".into()]);
    args
}

/// The first keyring that the sources name and the host has not.
fn missing_keyring(sources: &str) -> Option<std::path::PathBuf> {
    apt::stanza::parse(sources)
        .iter()
        .flat_map(|stanza| stanza.words("Signed-By"))
        .filter(|word| word.starts_with('/'))
        .map(std::path::PathBuf::from)
        .find(|path| !path.exists())
}

/// dpkg's word for the architecture this program was built for.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Tells the failures that have a remedy of their own apart, by apt's and dpkg's own words.
fn failed(image: String, source: CommandError) -> RecipeError {
    let text = match &source {
        CommandError::Failed { stderr, .. } => stderr.to_lowercase(),
        CommandError::NotFound { .. } => {
            return RecipeError::NotInstalled {
                program: "mmdebstrap",
            };
        }
        _ => String::new(),
    };
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["no space left on device", "enough free space"]) {
        RecipeError::NoSpace { image, source }
    } else if says(&[
        "could not resolve",
        "temporary failure resolving",
        "could not connect",
        "unable to connect",
        "connection failed",
        "connection timed out",
        "network is unreachable",
    ]) {
        RecipeError::Network { image, source }
    } else {
        RecipeError::Build { image, source }
    }
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
