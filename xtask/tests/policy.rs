//! Rules of ARCHITECTURE.md that a program can check.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Every Rust source of the products, by its path below `crates/`.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = workspace().join("crates");
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).unwrap() {
        let src = entry.unwrap().path().join("src");
        if src.is_dir() {
            walk(&src, &root, &mut found);
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// What each crate may depend on, among ours. The same sentences stand in ARCHITECTURE.md.
#[test]
fn crates_depend_downwards_only() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("banger-protocol", &[][..]),
        ("banger-host", &[]),
        ("banger-image", &["banger-host"]),
        ("banger-net", &["banger-host"]),
        ("banger-vmm", &["banger-host"]),
        ("banger-agent", &["banger-protocol"]),
        ("banger", &["banger-host", "banger-protocol"]),
        (
            "bangerd",
            &[
                "banger-host",
                "banger-image",
                "banger-net",
                "banger-protocol",
                "banger-vmm",
            ],
        ),
    ]);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(allowed) = allowed.get(name) else {
            continue;
        };
        seen += 1;
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let is_ours = used.starts_with("banger");
            let in_tests = dependency["kind"] == "dev";
            assert!(
                !is_ours || in_tests || allowed.contains(&used),
                "{name} must not depend on {used}"
            );
        }
    }
    assert_eq!(seen, allowed.len());
}

/// Modules that start processes. Everything else asks one of them.
const MAY_SPAWN: [(&str, &str); 4] = [
    (
        "banger-host/src/command",
        "the one wrapper through which programs run",
    ),
    (
        "banger-vmm/src/jail",
        "starts the launcher, which becomes the VMM",
    ),
    ("banger/src/daemon/start", "starts bangerd detached"),
    ("banger-agent/src/", "runs the guest's processes"),
];

#[test]
fn only_these_modules_start_processes() {
    let signs = [
        "Command::new",
        "posix_spawn",
        "fork()",
        "execve",
        "execv(",
        "execvp",
    ];
    for (file, text) in sources() {
        if MAY_SPAWN.iter().any(|(module, _)| file.starts_with(module)) {
            continue;
        }
        if file.ends_with("/tests.rs") || file.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for sign in signs {
                assert!(
                    !line.contains(sign),
                    "{file}:{} starts a process ({sign}); see MAY_SPAWN",
                    number + 1
                );
            }
        }
    }
}

/// Names that hide what a file owns.
#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty = [
        "util", "utils", "common", "helper", "helpers", "misc", "core", "imp", "data",
    ];
    for (file, _) in sources() {
        for part in file.trim_end_matches(".rs").split('/') {
            assert!(!empty.contains(&part), "{file}: {part} says nothing");
        }
    }
}
