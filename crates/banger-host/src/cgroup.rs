//! A cgroup for a process tree, in every hierarchy that lets us make one.
//!
//! Hosts differ: version 2 alone (most), version 1 with a version 2 hierarchy that has no
//! controllers beside it (hybrid), or nothing writable at all (containers, ordinary users
//! without delegation). A [`Cgroup`] is the same relative name made below the caller's own
//! cgroup wherever that works: version 2 for killing and accounting, the version 1 `memory` and
//! `pids` hierarchies for limits. What could not be had is reported as notes, never as an error.
//!
//! Limits: version 2 forbids handing controllers to children while the parent holds processes
//! itself, so below a cgroup that is neither the root nor delegated empty, limits are reported
//! as not set.

mod discover;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Identity;

pub use discover::{Hierarchy, Version, discover};

/// What a cgroup may use; `None` leaves it unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, page cache included.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "{0:?} is not a cgroup name: words of letters, digits, `-`, `_` and `.`, joined by `/`"
    )]
    InvalidName(String),
    #[error("cannot {deed} cgroup {}", path.display())]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("processes of cgroup {0} did not end when killed")]
    Unkillable(String),
}

/// One name in all hierarchies where it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    name: String,
    places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    version: Version,
}

impl Cgroup {
    /// Makes the cgroup `name` below the caller's own. `None` when no hierarchy is writable; the
    /// notes say why, and which limits are not in force.
    pub fn create(name: &str, limits: &Limits) -> Result<(Option<Self>, Vec<String>), CgroupError> {
        check_name(name)?;
        Ok(Self::create_in(&own_hierarchies(), name, limits))
    }

    fn create_in(
        hierarchies: &[Hierarchy],
        name: &str,
        limits: &Limits,
    ) -> (Option<Self>, Vec<String>) {
        let mut notes = Vec::new();
        let mut places = Vec::new();
        let mut pending = *limits;
        for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.is_wanted()) {
            let directory = hierarchy.own.join(name);
            if hierarchy.version == Version::V2 {
                enable_controllers(hierarchy, name, limits);
            }
            // A process joins later by writing here, so a directory we could make but whose
            // `cgroup.procs` we may not write is of no use.
            let made = fs::create_dir_all(&directory).and_then(|()| {
                fs::OpenOptions::new()
                    .write(true)
                    .open(directory.join("cgroup.procs"))
                    .map(drop)
            });
            if let Err(error) = made {
                notes.push(format!(
                    "cgroup {} is not usable: {error}",
                    directory.display()
                ));
                continue;
            }
            apply(&directory, hierarchy, &mut pending, &mut notes);
            places.push(Place {
                directory,
                version: hierarchy.version,
            });
        }
        if pending.memory.is_some() {
            notes.push("no memory limit: the controller is not available here".into());
        }
        if pending.pids.is_some() {
            notes.push("no process limit: the controller is not available here".into());
        }
        let cgroup = (!places.is_empty()).then(|| Self {
            name: name.to_owned(),
            places,
        });
        (cgroup, notes)
    }

    /// The cgroup of this name below the caller's own, where it exists.
    pub fn open(name: &str) -> Result<Option<Self>, CgroupError> {
        check_name(name)?;
        let places: Vec<Place> = own_hierarchies()
            .into_iter()
            .filter(Hierarchy::is_wanted)
            .map(|hierarchy| Place {
                directory: hierarchy.own.join(name),
                version: hierarchy.version,
            })
            .filter(|place| place.directory.is_dir())
            .collect();
        Ok((!places.is_empty()).then(|| Self {
            name: name.to_owned(),
            places,
        }))
    }

    /// Its directories, one per hierarchy.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.directory.as_path())
    }

    /// Moves a process in; 0 means the caller.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        for place in &self.places {
            let path = place.directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(|source| CgroupError::Io {
                deed: "move a process into",
                path: place.directory.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Ids of the processes in it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .places
            .iter()
            .filter_map(|place| fs::read_to_string(place.directory.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<i32>>()
            })
            // 0 stands for a process outside our pid namespace.
            .filter(|pid| *pid > 0)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every process in it and waits, within `limit`, until they are gone. The caller's
    /// own process is never killed.
    pub fn kill(&self, limit: Duration) -> Result<(), CgroupError> {
        let me = rustix::process::getpid().as_raw_pid();
        let deadline = std::time::Instant::now() + limit;
        loop {
            let alive: Vec<Identity> = self
                .processes()
                .into_iter()
                .filter(|pid| *pid != me)
                .filter_map(|pid| Identity::of(pid).ok().flatten())
                .collect();
            if alive.is_empty() {
                return Ok(());
            }
            self.kill_once(&alive, me);
            if std::time::Instant::now() > deadline {
                return Err(CgroupError::Unkillable(self.name.clone()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill_once(&self, alive: &[Identity], me: i32) {
        // One write kills even a fork bomb, but everything: us too, if we were in it.
        let whole = self
            .places
            .iter()
            .filter(|place| place.version == Version::V2)
            .any(|place| {
                !self.processes().contains(&me)
                    && fs::write(place.directory.join("cgroup.kill"), "1").is_ok()
            });
        if whole {
            return;
        }
        for identity in alive {
            if let Some(pid) = rustix::process::Pid::from_raw(identity.pid) {
                // Membership was read a moment ago; the number cannot have been reused by a
                // process outside without the member having been reaped in between, which the
                // start time just compared makes unlikely to the microsecond.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// Removes the empty cgroup, and its parents below the caller's where they are empty too.
    /// Absence is success.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let depth = self.name.split('/').count();
        let mut first = None;
        for place in &self.places {
            for (level, directory) in place.directory.ancestors().take(depth).enumerate() {
                let result = remove_directory(directory);
                match result {
                    Ok(()) => {}
                    // A parent holds other VMs.
                    Err(_) if level > 0 => break,
                    Err(source) => {
                        first.get_or_insert(CgroupError::Io {
                            deed: "remove",
                            path: directory.to_owned(),
                            source,
                        });
                        break;
                    }
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// The kernel lets go of a killed process a moment after its exit is visible.
fn remove_directory(directory: &Path) -> io::Result<()> {
    let mut tries = 50;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => {
                let populated = fs::read_to_string(directory.join("cgroup.procs"))
                    .is_ok_and(|text| !text.trim().is_empty());
                let has_children = fs::read_dir(directory)
                    .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()));
                if populated || has_children {
                    return Err(error);
                }
                tries -= 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Hands the controllers that are asked for down from the caller's cgroup to the new one. Not
/// being allowed to is normal; what is missing shows when the limit is written.
fn enable_controllers(hierarchy: &Hierarchy, name: &str, limits: &Limits) {
    let wanted = [
        ("+memory", limits.memory.is_some()),
        ("+pids", limits.pids.is_some()),
    ];
    let mut directory = hierarchy.own.clone();
    let parents = name.split('/').count();
    for level in name.split('/').take(parents) {
        // One controller a write: an absent one would spoil the others.
        for (controller, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
        directory.push(level);
        if level != name.rsplit('/').next().unwrap_or(level) {
            let _ = fs::create_dir(&directory);
        }
    }
}

fn apply(directory: &Path, hierarchy: &Hierarchy, pending: &mut Limits, notes: &mut Vec<String>) {
    let (memory_file, pids_file) = match hierarchy.version {
        Version::V2 => ("memory.max", "pids.max"),
        Version::V1 => ("memory.limit_in_bytes", "pids.max"),
    };
    for (slot, file) in [
        (&mut pending.memory, memory_file),
        (&mut pending.pids, pids_file),
    ] {
        let path = directory.join(file);
        if let Some(limit) = *slot
            && path.exists()
        {
            match fs::write(&path, limit.to_string()) {
                Ok(()) => *slot = None,
                Err(error) => notes.push(format!("cannot set {}: {error}", path.display())),
            }
        }
    }
}

fn own_hierarchies() -> Vec<Hierarchy> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    discover(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    let word = |word: &str| {
        !word.is_empty()
            && word.len() <= 128
            && !word.starts_with('.')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            // Kernel files in a cgroup directory look like `memory.max`.
            && !["cgroup.", "memory.", "pids.", "cpu.", "io."]
                .iter()
                .any(|prefix| word.starts_with(prefix))
    };
    if name.split('/').count() <= 8 && name.split('/').all(word) {
        Ok(())
    } else {
        Err(CgroupError::InvalidName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
