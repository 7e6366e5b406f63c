//! Processors that the kernel was told to leave alone at first (`maxcpus=1`).
//!
//! A QEMU which translates may abort when one processor moves a PCI device's window while another
//! runs, so the host lets a single one look for devices; the rest comes here, while the host is
//! asked what to boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

const PROCESSORS: &str = "/sys/devices/system/cpu";

/// The others on their way.
pub struct Coming(JoinHandle<Vec<(PathBuf, io::Error)>>);

impl Coming {
    /// Waits for them: an image's init counts processors once. Returns those that did not come.
    pub fn wait(self) -> Vec<(PathBuf, io::Error)> {
        self.0.join().unwrap_or_default()
    }
}

/// Brings all processors online that are not, in a thread. None where none is missing.
pub fn bring_online() -> io::Result<Option<Coming>> {
    let missing = offline(Path::new(PROCESSORS))?;
    if missing.is_empty() {
        return Ok(None);
    }
    let bring = move || {
        missing
            .into_iter()
            .filter_map(|switch| match fs::write(&switch, "1") {
                Ok(()) => None,
                Err(error) => Some((switch, error)),
            })
            .collect()
    };
    let thread = std::thread::Builder::new()
        .name("processors".to_owned())
        .spawn(bring)?;
    Ok(Some(Coming(thread)))
}

/// The switches that are off, in the order of their numbers. The first processor has none.
fn offline(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix("cpu"))
            .and_then(|number| number.parse::<u32>().ok());
        let switch = entry.path().join("online");
        if let Some(number) = number
            && fs::read_to_string(&switch).is_ok_and(|state| state.trim() == "0")
        {
            found.push((number, switch));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, switch)| switch).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_are_off_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for (name, state) in [
            ("cpu10", Some("0\n")),
            ("cpu2", Some("0\n")),
            ("cpu1", Some("1\n")),
            ("cpu0", None),
            ("cpufreq", Some("0\n")),
        ] {
            let processor = directory.path().join(name);
            fs::create_dir(&processor).unwrap();
            if let Some(state) = state {
                fs::write(processor.join("online"), state).unwrap();
            }
        }
        fs::write(directory.path().join("present"), "0-10\n").unwrap();
        let expected: Vec<PathBuf> = ["cpu2/online", "cpu10/online"]
            .iter()
            .map(|name| directory.path().join(name))
            .collect();
        assert_eq!(offline(directory.path()).unwrap(), expected);
        assert!(offline(&directory.path().join("none")).is_err());
    }
}
