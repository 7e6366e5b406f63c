//! apt's sources: read from the host, and rendered again without those that opt out of signatures.
//!
//! Both forms are read, `*.list` lines and `*.sources` stanzas; one form is written. What is not
//! understood is left out: a source too few gives "not offered", one too many could give anything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use banger_host::command::Program;

use super::{AptError, stanza};

/// A source of binary packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub uris: Vec<String>,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// Other fields by their deb822 names, in their order.
    pub options: Vec<(String, String)>,
}

/// Fields that are carried over. All say more strictly or precisely what is accepted, or are about
/// dates, which the administrator may have to relax for a frozen mirror.
const KEPT: &[&str] = &[
    "Signed-By",
    "Architectures",
    "Check-Valid-Until",
    "Valid-Until-Min",
    "Valid-Until-Max",
    "Check-Date",
    "Date-Max-Future",
    "InRelease-Path",
    "By-Hash",
    "Include",
    "Exclude",
];

/// Fields which, when on, switch verification off.
const UNSIGNED: &[&str] = &[
    "Trusted",
    "Allow-Insecure",
    "Allow-Weak",
    "Allow-Downgrade-To-Insecure",
];

impl Source {
    /// Whether packages from here come with an unbroken chain of signatures.
    fn is_signed(&self) -> bool {
        !self.options.iter().any(|(key, value)| {
            UNSIGNED.iter().any(|name| name.eq_ignore_ascii_case(key)) && is_on(value)
        })
    }

    /// The deb822 stanza.
    pub fn render(&self) -> String {
        let mut text = String::from("Types: deb\n");
        let mut field = |key: &str, value: &str| {
            // A continuation line begins with a blank.
            let _ = writeln!(text, "{key}: {}", value.replace('\n', "\n "));
        };
        field("URIs", &self.uris.join(" "));
        field("Suites", &self.suites.join(" "));
        if !self.components.is_empty() {
            field("Components", &self.components.join(" "));
        }
        for (key, value) in &self.options {
            if KEPT.iter().any(|name| name.eq_ignore_ascii_case(key)) {
                field(key, value);
            }
        }
        text.push('\n');
        text
    }
}

/// apt's StringToBool, where a word it does not know counts as off; here it counts as on.
fn is_on(value: &str) -> bool {
    !matches!(
        value.trim().to_ascii_lowercase().as_str(),
        "no" | "false" | "without" | "off" | "disable" | "0"
    )
}

/// The signed sources of the host, as apt itself would find their files.
pub async fn host_sources() -> Result<Vec<Source>, AptError> {
    let output = Program::new("apt-config")
        .args([
            "shell",
            "LIST",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ])
        .time_limit(std::time::Duration::from_secs(20))
        .run()
        .await?;
    let text = output.text();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| PathBuf::from(value.trim_matches('\'')))
    };
    let sources = tokio::task::spawn_blocking({
        let (list, parts) = (value("LIST"), value("PARTS"));
        move || read_files(list.as_deref(), parts.as_deref())
    })
    .await
    .map_err(|_| AptError::NoSources)??;
    if sources.is_empty() {
        return Err(AptError::NoSources);
    }
    Ok(sources)
}

fn read_files(list: Option<&Path>, parts: Option<&Path>) -> Result<Vec<Source>, AptError> {
    let mut paths: Vec<PathBuf> = list.map(Path::to_owned).into_iter().collect();
    if let Some(parts) = parts {
        match std::fs::read_dir(parts) {
            Ok(entries) => {
                let mut found: Vec<PathBuf> = entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| is_source_file(path))
                    .collect();
                found.sort();
                paths.extend(found);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(AptError::ReadSources {
                    path: parts.to_owned(),
                    source,
                });
            }
        }
    }
    let mut sources = Vec::new();
    for path in paths {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                if path.extension().is_some_and(|e| e == "sources") {
                    sources.extend(parse_deb822(&text));
                } else {
                    sources.extend(parse_lines(&text));
                }
            }
            // A list that only root may read (it may hold a password) is not for this user.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                ) => {}
            Err(source) => return Err(AptError::ReadSources { path, source }),
        }
    }
    Ok(sources)
}

/// sources.list(5): names of letters, digits, `_`, `-`, `.`; other files are ignored by apt too.
fn is_source_file(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e == "list" || e == "sources")
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| {
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            })
}

/// Reads a `*.sources` file.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    stanza::parse(text)
        .iter()
        .filter(|stanza| stanza.words("Types").iter().any(|kind| kind == "deb"))
        .filter(|stanza| stanza.get("Enabled").is_none_or(is_on))
        .map(|stanza| Source {
            uris: stanza.words("URIs"),
            suites: stanza.words("Suites"),
            components: stanza.words("Components"),
            options: KEPT
                .iter()
                .chain(UNSIGNED)
                .filter_map(|key| Some(((*key).to_owned(), stanza.get(key)?.to_owned())))
                .collect(),
        })
        .filter(is_usable)
        .collect()
}

/// Reads a `*.list` file: `deb [option=value …] uri suite component…`.
pub fn parse_lines(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(parse_line)
        .filter(is_usable)
        .collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None; // deb-src
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        options: options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            // `arch+=` adds to the default; the name alone decides below.
            .map(|(key, value)| {
                let key = key.trim_end_matches(['+', '-']);
                (deb822_name(key), value.replace(',', " "))
            })
            .collect(),
    })
}

fn deb822_name(option: &str) -> String {
    if option.eq_ignore_ascii_case("arch") {
        return "Architectures".into();
    }
    KEPT.iter()
        .chain(UNSIGNED)
        .find(|name| name.eq_ignore_ascii_case(option))
        .map_or_else(|| option.to_owned(), |name| (*name).to_owned())
}

fn is_usable(source: &Source) -> bool {
    !source.uris.is_empty()
        && !source.suites.is_empty()
        // A disc in a drive cannot be asked for here.
        && !source.uris.iter().any(|uri| uri.starts_with("cdrom:"))
        && source.is_signed()
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
