//! What probes found, on disk. A file that cannot be read or understood holds nothing: the next
//! probe writes it anew.

use std::io;
use std::os::unix::fs::MetadataExt;
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
    /// The machine ran and ended.
    Ends { reason: String },
    /// The VMM could not start it. A permission or a want of memory may be the cause, so this holds
    /// only in the circumstances it was found in.
    Refused { reason: String },
    /// Nothing came within the longest bound. It may have been the host's load, so this holds only
    /// in the circumstances it was found in.
    Hangs { after_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    outcome: Outcome,
    circumstances: String,
}

pub(super) struct Verdicts {
    path: PathBuf,
    circumstances: String,
    entries: Vec<Entry>,
}

impl Verdicts {
    pub(super) fn load(path: &Path) -> Verdicts {
        Verdicts::load_in(path, circumstances(Path::new("/dev/kvm")))
    }

    fn load_in(path: &Path, circumstances: String) -> Verdicts {
        let small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MOST_BYTES);
        let entries = small
            .then(|| std::fs::read(path).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Verdicts {
            path: path.to_owned(),
            circumstances,
            entries,
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        matches!(entry.outcome, Outcome::Boots { .. } | Outcome::Ends { .. })
            || entry.circumstances == self.circumstances
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
            circumstances: self.circumstances,
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

/// The host's boot, and who may use the device: what an administrator changes when told that KVM
/// does not work.
fn circumstances(device: &Path) -> String {
    let boot_id = banger_host::kernel::boot_id().unwrap_or_default();
    match std::fs::metadata(device) {
        Ok(metadata) => format!(
            "{boot_id} {}:{} {:o}",
            metadata.uid(),
            metadata.gid(),
            metadata.mode()
        ),
        Err(_) => boot_id,
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
    fn what_may_have_been_the_host_holds_for_one_boot_and_the_rest_for_good() {
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
        let (ends, refused) = (
            Outcome::Ends {
                reason: "e".to_owned(),
            },
            Outcome::Refused {
                reason: "r".to_owned(),
            },
        );
        load("one").remember(key(3), ends.clone()).unwrap();
        load("one").remember(key(4), refused.clone()).unwrap();
        assert_eq!(load("one").find(&key(4)), Some(refused));
        assert_eq!(load("two").find(&key(4)), None);
        assert_eq!(load("two").find(&key(3)), Some(ends));

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

    #[test]
    fn another_mode_or_owner_of_the_device_is_another_circumstance() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("kvm");
        let absent = circumstances(&device);
        std::fs::write(&device, b"").unwrap();
        let mut seen = vec![absent];
        for mode in [0o600, 0o660] {
            std::fs::set_permissions(&device, std::fs::Permissions::from_mode(mode)).unwrap();
            let now = circumstances(&device);
            assert_eq!(now, circumstances(&device));
            assert!(!seen.contains(&now), "{now}");
            seen.push(now);
        }
    }
}
