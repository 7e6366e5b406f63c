//! What is known about a QEMU binary, asked once.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use banger_host::command::{CommandError, Program, find};

use crate::VmmError;

/// The oldest versioned machine type wanted: a snapshot taken today should load in a later QEMU,
/// and QEMU drops types after six years or so.
const PREFERRED_MACHINE: &str = "pc-q35-7.2";
const QUERY_LIMIT: Duration = Duration::from_secs(20);

/// Facts of one binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    pub path: PathBuf,
    /// `10.0.2`, or the whole first line where there is no version in it.
    pub version: String,
    pub machine_type: String,
}

/// A binary's facts by path, valid while the file is the same.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<PathBuf, (Stamp, Arc<Binary>)>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Cache {
    pub(super) async fn inspect(&self, name: &Path) -> Result<Arc<Binary>, VmmError> {
        let missing = || VmmError::NotInstalled {
            program: name.display().to_string(),
        };
        let path = find(name).ok_or_else(missing)?;
        let stamp = stamp(&path).ok_or_else(missing)?;
        if let Some((known, binary)) = self.lock().get(&path)
            && *known == stamp
        {
            return Ok(Arc::clone(binary));
        }
        let binary = Arc::new(ask(&path).await?);
        self.lock().insert(path, (stamp, Arc::clone(&binary)));
        Ok(binary)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Arc<Binary>)>> {
        // A panic elsewhere cannot leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

async fn ask(path: &Path) -> Result<Binary, VmmError> {
    let run = |args: &'static [&'static str]| {
        Program::new(path)
            .args(args)
            .time_limit(QUERY_LIMIT)
            .stdout_limit(1 << 20)
            .run()
    };
    let (version, machines) = tokio::try_join!(run(&["--version"]), run(&["-machine", "help"]))
        .map_err(|error| match error {
            CommandError::NotFound { program } => VmmError::NotInstalled { program },
            error => VmmError::Launch {
                reason: error.to_string(),
            },
        })?;
    let machine_type = pick_machine(&machines.text()).ok_or_else(|| VmmError::Unsupported {
        what: "the q35 machine".into(),
    })?;
    Ok(Binary {
        path: path.to_owned(),
        version: parse_version(&version.text()),
        machine_type,
    })
}

/// `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)` → `10.0.2`
fn parse_version(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.split_ascii_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .unwrap_or(line)
        .to_owned()
}

/// The preferred type, else the oldest the binary does not call deprecated, else plain `q35`.
fn pick_machine(help: &str) -> Option<String> {
    let mut versioned: Vec<(Vec<u32>, &str)> = Vec::new();
    let mut plain = None;
    for line in help.lines() {
        let Some(name) = line.split_ascii_whitespace().next() else {
            continue;
        };
        if name == PREFERRED_MACHINE {
            return Some(name.to_owned());
        }
        if name == "q35" {
            plain = Some(name);
        }
        if let Some(version) = name.strip_prefix("pc-q35-")
            && !line.contains("deprecated")
        {
            let numbers: Option<Vec<u32>> =
                version.split('.').map(|part| part.parse().ok()).collect();
            versioned.extend(numbers.map(|numbers| (numbers, name)));
        }
    }
    versioned
        .into_iter()
        .min()
        .map(|(_, name)| name)
        .or(plain)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            (
                "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright",
                "10.0.2",
            ),
            ("QEMU emulator version 7.2.22\n", "7.2.22"),
            ("something else", "something else"),
            ("QEMU version", "QEMU version"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected);
        }
    }

    #[test]
    fn machine_types() {
        let cases = [
            (
                "pc-q35-9.2  x\npc-q35-7.2  x\nq35 x (alias of pc-q35-10.0)\n",
                Some("pc-q35-7.2"),
            ),
            (
                "pc-q35-12.0 x\npc-q35-9.2 x\npc-q35-8.0 x (deprecated)\nq35 x",
                Some("pc-q35-9.2"),
            ),
            ("pc-q35-6.2 x\nq35 x", Some("pc-q35-6.2")),
            ("microvm x\nq35 x (alias of ?)\npc-q35-odd x", Some("q35")),
            ("none x\nvirt-8.0 x", None),
            ("", None),
        ];
        for (help, expected) in cases {
            assert_eq!(pick_machine(help).as_deref(), expected, "{help}");
        }
    }

    #[tokio::test]
    async fn is_asked_once_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu");
        let write = |version: &str| {
            let script = format!(
                "#!/bin/sh\necho x >> {}/asked\ncase $1 in --version) echo QEMU emulator version {version};; *) echo q35 x;; esac\n",
                directory.path().display()
            );
            banger_host::files::write_atomic(&path, script.as_bytes(), 0o755).unwrap();
        };
        let cache = Cache::default();
        write("1.2.3");
        for _ in 0..3 {
            let binary = cache.inspect(&path).await.unwrap();
            assert_eq!(
                (binary.version.as_str(), binary.machine_type.as_str()),
                ("1.2.3", "q35")
            );
        }
        write("1.2.4");
        assert_eq!(cache.inspect(&path).await.unwrap().version, "1.2.4");
        let asked = std::fs::read_to_string(directory.path().join("asked")).unwrap();
        assert_eq!(asked.lines().count(), 4);
        let missing = cache.inspect(Path::new("/no/such/qemu")).await.unwrap_err();
        assert_eq!(missing.to_string(), "/no/such/qemu is not installed");
        banger_host::files::write_atomic(&path, b"#!/bin/sh\nexit 9\n", 0o755).unwrap();
        let broken = cache.inspect(&path).await.unwrap_err();
        assert!(matches!(broken, VmmError::Launch { .. }), "{broken}");
    }
}
