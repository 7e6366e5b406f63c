//! What a VMM may not do, read off the running process.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_host::cgroup::Cgroup;
use banger_vmm::jail::{Leftover, end_leftover, leftover};
use banger_vmm::{Disk, Exit, JailConfig, MachineConfig, Vmm, jail_path};
use rustix::io::FdFlags;

use crate::guest::{Deed, print};
use crate::place::{Daemon, Place, adopt, console_shows, driver, processes_of, status};

const ORDINARY: u32 = 65534;

/// A group that is neither the VM's nor ours, in the place of the one that owns /dev/kvm.
const KVM_GROUP: u32 = 64_055;

fn jailed(place: &Place, cgroup: Option<String>) -> MachineConfig {
    // However the directory comes, it is the launcher that says whose it is.
    std::os::unix::fs::chown(place.directory(), Some(place.uid()), None).unwrap();
    place.write("upper", &[0; 4096]);
    MachineConfig {
        disks: vec![Disk {
            serial: "upper".to_owned(),
            file: "upper".to_owned(),
            read_only: false,
        }],
        jail: JailConfig {
            uid: Some(place.uid()),
            kvm_gid: Some(KVM_GROUP),
            cgroup,
            max_file_size: Some(1 << 20),
        },
        ..place.config()
    }
}

/// What holds for every VMM, whoever started it, and for each of its threads.
fn assert_powerless(process: &Path, user: &str, groups: &str, sets: &[&str]) {
    let threads: Vec<PathBuf> = std::fs::read_dir(process.join("task"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(threads.len() > 1, "one thread runs the guest");
    for thread in threads {
        for field in ["Uid", "Gid"] {
            assert_eq!(status(&thread, field), user, "{field}");
        }
        assert_eq!(status(&thread, "Groups"), groups);
        assert_eq!(status(&thread, "NoNewPrivs"), "1");
        assert_eq!(status(&thread, "Seccomp"), "2", "filtered");
        for set in sets {
            assert_eq!(status(&thread, set), "0000000000000000", "{set}");
        }
    }
}

/// Each open file is one that a VMM has reason to have.
fn assert_own_files(process: &Path, directory: &Path) {
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(process.join("fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        let text = target.to_str().unwrap().to_owned();
        let expected = match number {
            0 => text == "/dev/null",
            1 | 2 => target == directory.join(jail_path::VMM_FIFO),
            _ => {
                ["socket:", "anon_inode:"]
                    .iter()
                    .any(|kind| text.starts_with(kind))
                    || ["/dev/urandom", "/dev/kvm"].contains(&text.as_str())
                    || target == directory.join("upper")
            }
        };
        assert!(expected, "descriptor {number} is {text}");
        seen.insert(text);
    }
    assert!(seen.len() > 3, "{seen:?}");
}

pub async fn roots_vmm_is_nobody() {
    let place = Place::new(&[print("up\n")]);
    // What a careless daemon leaves open for its children.
    let secret = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&secret, FdFlags::empty()).unwrap();
    let config = jailed(&place, None);
    let uid = place.uid();
    assert!(processes_of(uid).is_empty());
    let machine = driver().launch(config).await.unwrap();
    console_shows(&machine, "up").await;

    let process = PathBuf::from(format!("/proc/{}", machine.record().pid));
    assert_powerless(
        &process,
        &format!("{uid} {uid} {uid} {uid}"),
        &KVM_GROUP.to_string(),
        &["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"],
    );
    assert_own_files(&process, &place.directory());
    // A session of its own: no terminal's hang-up and no group's signal reaches it.
    let stat = std::fs::read_to_string(process.join("stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let session = rest.split(' ').nth(3).unwrap();
    assert_eq!(session, machine.record().pid.to_string());
    let limits = std::fs::read_to_string(process.join("limits")).unwrap();
    for (limit, value) in [
        ("Max core file size", "0"),
        ("Max file size", "1048576"),
        ("Max open files", "1024"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let words: Vec<&str> = line[limit.len()..].split_whitespace().collect();
        assert_eq!(words[..2], [value, value], "{line}");
    }
    let environment = std::fs::read(process.join("environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert_eq!(
        environment.split_terminator('\0').collect::<Vec<_>>(),
        [
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "LC_ALL=C.UTF-8",
            "HOME=/"
        ]
    );
    assert_eq!(processes_of(uid), std::slice::from_ref(&process));

    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, Exit::Killed);
    assert!(!process.exists());
    assert!(processes_of(uid).is_empty());
}

/// Where /dev/kvm is root's own, its group would open other files of root's.
pub async fn group_0_is_not_kept() {
    let place = Place::new(&[print("up\n")]);
    let mut config = jailed(&place, None);
    config.jail.kvm_gid = Some(0);
    let machine = driver().launch(config).await.unwrap();
    let process = PathBuf::from(format!("/proc/{}", machine.record().pid));
    assert_eq!(status(&process, "Groups"), "");
    machine.kill().await.unwrap();
}

pub async fn the_vmm_cannot_replace_a_file_of_ours() {
    let place = Place::new(&[print("up\n")]);
    let config = jailed(&place, None);
    let machine = driver().launch(config).await.unwrap();
    let uid = place.uid();
    let owner = |name: &str| {
        let metadata = std::fs::metadata(place.directory().join(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    assert_eq!(owner(""), (0, uid, 0o1770));
    assert_eq!(owner("upper"), (uid, uid, 0o600));
    for name in [
        jail_path::PROCESS,
        jail_path::CONSOLE_LOG,
        jail_path::VMM_LOG,
    ] {
        let (user, _, mode) = owner(name);
        assert_eq!((user, mode), (0, 0o600), "{name}");
    }
    for name in [jail_path::AGENT_SOCKET, jail_path::API_SOCKET] {
        assert_eq!(owner(name).0, uid, "{name}");
    }
    // As the VMM's user: neither remove nor replace nor read what is ours.
    let script = "rm -f process.json; mv upper console.log; cat vmm.log kernel/x; echo x > made";
    let output = {
        use std::os::unix::process::CommandExt;

        std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(place.directory())
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap()
    };
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.matches("not permitted").count() >= 2, "{errors}");
    assert!(errors.contains("Permission denied"), "{errors}");
    assert_eq!(owner("made").0, uid, "the script did run there");
    assert_eq!(owner(jail_path::PROCESS).0, 0);
    machine.kill().await.unwrap();
}

pub async fn an_ordinary_users_vmm_has_no_privileges() {
    let place = Place::new(&[print("up\n")]);
    let root = rustix::process::geteuid().is_root();
    let uid = if root {
        place.give_to(ORDINARY);
        ORDINARY
    } else {
        rustix::process::geteuid().as_raw()
    };
    let daemon = Daemon::launch(&place.config(), root.then_some(uid));
    let process = PathBuf::from(format!("/proc/{}", daemon.record.pid));
    assert!(status(&process, "Uid").starts_with(&format!("{uid} ")));
    // Its groups are the user's, which only root could take away.
    let groups = status(Path::new("/proc/self"), "Groups");
    let (gid, groups) = if root {
        (ORDINARY, String::new())
    } else {
        (rustix::process::getegid().as_raw(), groups)
    };
    for field in ["Uid", "Gid"] {
        let id = if field == "Uid" { uid } else { gid };
        assert_eq!(status(&process, field), format!("{id} {id} {id} {id}"));
    }
    assert_eq!(status(&process, "Groups"), groups);
    for thread in std::fs::read_dir(process.join("task")).unwrap().flatten() {
        for (field, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
        ] {
            assert_eq!(status(&thread.path(), field), value, "{field}");
        }
    }
    if root {
        // Not readable otherwise: the process may not be dumped.
        assert_own_files(&process, &place.directory());
    }
    let identity = crate::place::identity(&daemon.record);
    let record = daemon.kill();
    assert!(identity.is_alive().unwrap(), "it outlives its daemon");
    crate::place::signal(record.pid, rustix::process::Signal::KILL);
    crate::place::until("the end of the VMM", || !identity.is_alive().unwrap()).await;
}

pub async fn a_cgroup_lives_as_long_as_its_vmm() {
    for deed in [None, Some(Deed::PowerOff)] {
        let mut deeds = vec![Deed::Count {
            lines: 100,
            pause: 10_000,
        }];
        deeds.extend(deed.clone());
        let place = Place::new(&deeds);
        let name = place.cgroup();
        let machine = driver()
            .launch(jailed(&place, Some(name.clone())))
            .await
            .unwrap();
        let cgroup = Cgroup::open(&name).unwrap().unwrap();
        assert_eq!(cgroup.processes(), [machine.record().pid]);
        let process = format!("/proc/{}/cgroup", machine.record().pid);
        let text = std::fs::read_to_string(process).unwrap();
        assert_eq!(
            text.lines()
                .filter(|line| line.ends_with(&format!("/{name}")))
                .count(),
            cgroup.directories().count(),
            "{text}"
        );
        if deed.is_none() {
            machine.kill().await.unwrap();
        }
        machine.wait().await;
        assert_eq!(Cgroup::open(&name).unwrap(), None);
    }
    // A launch that fails leaves none either.
    let place = Place::new(&[]);
    let name = place.cgroup();
    place.write(jail_path::KERNEL, &[b'x'; 9000]);
    let failed = driver().launch(jailed(&place, Some(name.clone()))).await;
    assert!(failed.is_err());
    assert_eq!(Cgroup::open(&name).unwrap(), None);
}

/// The daemon was killed and its store lost: the jail directory alone says what to end.
pub async fn a_killed_launchers_leftover_is_ended() {
    let place = Place::new(&[print("up\n")]);
    let name = place.cgroup();
    let cgroup = crate::place::cgroups_are_writable().then_some(name.clone());
    let config = jailed(&place, cgroup.clone());
    let record = Daemon::launch(&config, None).kill();
    let identity = crate::place::identity(&record);
    assert_eq!(
        leftover(&place.directory()).unwrap(),
        Leftover::Running(identity)
    );
    end_leftover(&place.directory(), cgroup.as_deref())
        .await
        .unwrap();
    assert!(!identity.is_alive().unwrap());
    assert_eq!(leftover(&place.directory()).unwrap(), Leftover::Ended);
    assert!(processes_of(place.uid()).is_empty());
    assert_eq!(Cgroup::open(&name).unwrap(), None);
    assert!(adopt(&record).await.is_none());
}
