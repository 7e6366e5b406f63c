//! What probes found, on disk. A file that cannot be read or understood holds nothing: the next
//! probe writes it anew.

use std::io;
use std::path::{Path, PathBuf};

use banger_host::files::write_atomic;
use serde::{Deserialize, Serialize};

/// Verdicts kept; the oldest goes first.
const MOST: usize = 64;
/// A larger file is none of ours.
const MOST_BYTES: u64 = 256 << 10;

/// What a verdict holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `uname -r` of the host.
    pub host_kernel: String,
    /// Version text of the VMM.
    pub vmm: String,
    /// SHA-256 of the guest's kernel.
    pub guest_kernel: String,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It answered.
    Boots { ms: u64 },
    /// The machine ended, or could not be started.
    Ends { reason: String },
    /// Nothing came within the longest bound. It may have been the host's load, so this holds only
    /// until the host boots again.
    Hangs { after_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    outcome: Outcome,
    /// The host's boot in which it was found.
    boot_id: String,
}

pub(super) struct Verdicts {
    path: PathBuf,
    boot_id: String,
    entries: Vec<Entry>,
}

impl Verdicts {
    pub(super) fn load(path: &Path) -> Verdicts {
        let boot_id = banger_host::kernel::boot_id().unwrap_or_default();
        Verdicts::load_in(path, boot_id)
    }

    fn load_in(path: &Path, boot_id: String) -> Verdicts {
        let small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MOST_BYTES);
        let entries = small
            .then(|| std::fs::read(path).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Verdicts {
            path: path.to_owned(),
            boot_id,
            entries,
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        !matches!(entry.outcome, Outcome::Hangs { .. }) || entry.boot_id == self.boot_id
    }

    pub(super) fn find(&self, key: &Key) -> Option<Outcome> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.key == *key && self.holds(entry))
            .map(|entry| entry.outcome.clone())
    }

    /// The newest that still holds, whatever kernel it is about.
    pub(super) fn latest(&self) -> Option<Outcome> {
        self.entries
            .iter()
            .rev()
            .find(|entry| self.holds(entry))
            .map(|entry| entry.outcome.clone())
    }

    pub(super) fn remember(mut self, key: Key, outcome: Outcome) -> io::Result<()> {
        self.entries.retain(|entry| entry.key != key);
        self.entries.push(Entry {
            key,
            outcome,
            boot_id: self.boot_id,
        });
        let surplus = self.entries.len().saturating_sub(MOST);
        self.entries.drain(..surplus);
        write_atomic(
            &self.path,
            &serde_json::to_vec_pretty(&self.entries)?,
            0o600,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key {
            host_kernel: "6.18".to_owned(),
            vmm: "10.0.2".to_owned(),
            guest_kernel: format!("{number:064}"),
        }
    }

    #[test]
    fn a_hang_holds_for_one_boot_and_the_rest_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdicts.json");
        let load = |boot: &str| Verdicts::load_in(&path, boot.to_owned());
        let boots = Outcome::Boots { ms: 7 };
        let hangs = Outcome::Hangs { after_ms: 9 };
        load("one").remember(key(1), boots.clone()).unwrap();
        load("one").remember(key(2), hangs.clone()).unwrap();
        assert_eq!(load("one").find(&key(1)), Some(boots.clone()));
        assert_eq!(load("one").find(&key(2)), Some(hangs.clone()));
        assert_eq!(load("two").find(&key(1)), Some(boots.clone()));
        assert_eq!(load("two").find(&key(2)), None);
        assert_eq!(load("one").latest(), Some(hangs));
        assert_eq!(load("two").latest(), Some(boots));
        assert_eq!(load("one").find(&key(3)), None);

        std::fs::write(&path, b"not json").unwrap();
        assert_eq!(load("one").find(&key(1)), None);
        for number in 0..MOST + 5 {
            load("one")
                .remember(
                    key(number),
                    Outcome::Ends {
                        reason: String::new(),
                    },
                )
                .unwrap();
        }
        assert_eq!(load("one").find(&key(0)), None);
        assert!(load("one").find(&key(MOST + 4)).is_some());
    }
}
