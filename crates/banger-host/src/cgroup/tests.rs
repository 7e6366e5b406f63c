use super::*;
use std::process::{Child, Command};

/// A cgroup name of this test run alone.
fn name(leaf: &str) -> String {
    format!("banger-test-{}/{leaf}", std::process::id())
}

fn sleeper() -> Child {
    Command::new("sleep").arg("300").spawn().unwrap()
}

#[test]
fn names_are_checked() {
    for good in ["a", "banger-1f/0ab", "A_b.c/d"] {
        check_name(good).unwrap();
    }
    for bad in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        ".a",
        "a b",
        "memory.max",
        "cgroup.procs",
        "é",
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
        assert!(Cgroup::create(bad, &Limits::default()).is_err());
        assert!(Cgroup::open(bad).is_err());
    }
    check_name(&"x".repeat(129)).unwrap_err();
}

#[test]
fn nothing_writable_is_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("file");
    fs::write(&blocked, "").unwrap();
    let hierarchies = [Hierarchy {
        version: Version::V2,
        controllers: Vec::new(),
        own: blocked,
    }];
    let limits = Limits {
        memory: Some(1 << 30),
        pids: Some(100),
    };
    let (cgroup, notes) = Cgroup::create_in(&hierarchies, "a/b", &limits);
    assert_eq!(cgroup, None);
    assert_eq!(notes.len(), 3, "{notes:?}");
    let (cgroup, notes) = Cgroup::create_in(&[], "a/b", &Limits::default());
    assert_eq!((cgroup, notes), (None, Vec::new()));
}

#[test]
fn holds_limits_kills_and_goes_away() {
    let name = name("whole");
    let limits = Limits {
        memory: Some(512 << 20),
        pids: Some(64),
    };
    let (cgroup, notes) = Cgroup::create(&name, &limits).unwrap();
    let Some(cgroup) = cgroup else {
        eprintln!("skipped: writable cgroup ({notes:?})");
        return;
    };
    // Each limit is either in force or reported.
    let read = |files: [&str; 2]| {
        cgroup
            .directories()
            .flat_map(|directory| files.map(|file| directory.join(file)))
            .find_map(|path| fs::read_to_string(path).ok())
            .map(|text| text.trim().to_owned())
    };
    let memory = read(["memory.max", "memory.limit_in_bytes"]);
    let pids = read(["pids.max", "pids.max"]);
    assert!(memory.as_deref() == Some("536870912") || notes.iter().any(|n| n.contains("memory")));
    assert!(
        pids.as_deref() == Some("64")
            || notes
                .iter()
                .any(|n| n.contains("process") || n.contains("pids"))
    );

    let mut children = [sleeper(), sleeper()];
    for child in &children {
        cgroup.add(i32::try_from(child.id()).unwrap()).unwrap();
    }
    assert_eq!(Cgroup::open(&name).unwrap().as_ref(), Some(&cgroup));
    assert_eq!(cgroup.processes().len(), 2);
    let busy = cgroup.remove().unwrap_err();
    assert!(
        matches!(busy, CgroupError::Io { deed: "remove", .. }),
        "{busy}"
    );
    cgroup.kill(Duration::from_secs(5)).unwrap();
    for child in &mut children {
        child.wait().unwrap();
    }
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(Cgroup::open(&name).unwrap(), None);
    for directory in cgroup.directories() {
        assert!(!directory.exists());
        assert!(
            !directory.parent().unwrap().exists(),
            "the parent was empty too"
        );
    }
}

#[test]
fn a_parent_in_use_stays() {
    let shared = format!("banger-test-shared-{}", std::process::id());
    let one = Cgroup::create(&format!("{shared}/one"), &Limits::default())
        .unwrap()
        .0;
    let two = Cgroup::create(&format!("{shared}/two"), &Limits::default())
        .unwrap()
        .0;
    let (Some(one), Some(two)) = (one, two) else {
        eprintln!("skipped: writable cgroup");
        return;
    };
    one.remove().unwrap();
    assert!(two.directories().all(Path::exists));
    two.kill(Duration::from_secs(1)).unwrap();
    two.remove().unwrap();
    assert!(
        two.directories()
            .all(|directory| !directory.parent().unwrap().exists())
    );
}
