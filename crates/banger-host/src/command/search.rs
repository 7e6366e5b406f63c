//! Where programs are looked for.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Debian keeps `mke2fs` and what `mmdebstrap` calls here, and leaves these out of an ordinary
/// user's `PATH`.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether an executable file of this name is found as [`find`] does.
pub fn is_installed(name: impl AsRef<OsStr>) -> bool {
    find(name).is_some()
}

/// The path a program would be started from: the name itself if it has a slash, else the first in
/// `PATH` and the directories of system programs.
pub fn find(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    find_in(name.as_ref(), &search_path())
}

/// `PATH`, followed by what it lacks of the directories of system programs.
pub(super) fn search_path() -> OsString {
    with_system(std::env::var_os("PATH").as_deref().unwrap_or_default())
}

fn with_system(path: &OsStr) -> OsString {
    let given: Vec<PathBuf> = if path.is_empty() {
        Vec::new()
    } else {
        std::env::split_paths(path).collect()
    };
    let known: HashSet<&Path> = given.iter().map(PathBuf::as_path).collect();
    let added = SYSTEM
        .map(Path::new)
        .into_iter()
        .filter(|directory| !known.contains(directory));
    std::env::join_paths(given.iter().map(PathBuf::as_path).chain(added))
        .unwrap_or_else(|_| path.to_owned())
}

fn find_in(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let name = Path::new(name);
    let executable = |path: &Path| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if name.components().count() > 1 || name.is_absolute() {
        return executable(name).then(|| name.to_owned());
    }
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|path| executable(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn system_directories_come_last_and_once() {
        for (path, expected) in [
            ("", "/usr/local/sbin:/usr/sbin:/sbin"),
            (
                "/usr/bin:/bin",
                "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            ),
            ("/sbin:/usr/sbin:/a", "/sbin:/usr/sbin:/a:/usr/local/sbin"),
        ] {
            assert_eq!(with_system(OsStr::new(path)), expected);
        }
    }

    #[test]
    fn the_first_executable_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let place = |sub: &str, name: &str, mode: u32| {
            let path = directory.path().join(sub).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        place("a", "tool", 0o644);
        let tool = place("b", "tool", 0o755);
        place("c", "tool", 0o755);
        std::fs::create_dir_all(directory.path().join("a/folder")).unwrap();
        let path =
            std::env::join_paths(["a", "b", "c"].map(|sub| directory.path().join(sub))).unwrap();
        assert_eq!(find_in(OsStr::new("tool"), &path), Some(tool.clone()));
        assert_eq!(find_in(OsStr::new("folder"), &path), None);
        assert_eq!(find_in(tool.as_os_str(), OsStr::new("")), Some(tool));
    }
}
