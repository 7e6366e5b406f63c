//! A running VMM, looked at from outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use banger_e2e::host::Host;

fn status(pid: nix::unistd::Pid) -> BTreeMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

#[test]
fn a_vmm_holds_nothing_it_does_not_need() {
    let host = Host::new();
    host.vm("busybox", "one");
    host.vm("busybox", "two");
    let mut uids = Vec::new();
    for name in ["one", "two"] {
        let pid = host.vmm_pid(name);
        let status = status(pid);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            if set == "CapBnd" && !nix::unistd::geteuid().is_root() {
                continue;
            }
            assert_eq!(status[set], "0000000000000000", "{set}");
        }
        assert_eq!(status["NoNewPrivs"], "1");
        assert_eq!(status["Seccomp"], "2");
        uids.push(status["Uid"].clone());
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            let text = target.to_string_lossy().into_owned();
            let own = target.starts_with(&directory)
                || ["/dev/null", "/dev/kvm", "/dev/urandom"].contains(&text.as_str())
                || ["anon_inode:", "socket:", "pipe:", "/memfd:"]
                    .iter()
                    .any(|kind| text.starts_with(kind));
            assert!(own, "an inherited descriptor: {text}");
        }
    }
    if nix::unistd::geteuid().is_root() {
        assert_ne!(uids[0], uids[1], "two VMs share a user id");
        assert!(!uids.iter().any(|uid| uid.starts_with("0\t")), "{uids:?}");
    } else {
        banger_e2e::skip("root");
    }
}

#[test]
fn nothing_needs_root() {
    if !nix::unistd::geteuid().is_root() {
        // Then every test shows it.
        return;
    }
    let host = Host::as_user(54321);
    let run = host
        .banger(&["vm", "run", "--rm", "busybox", "--", "id", "-u"])
        .ok();
    assert_eq!(run.text(), "0");
    host.vm("debian-12", "deb");
    assert_eq!(
        status(host.vmm_pid("deb"))["Uid"].split_whitespace().next(),
        Some("54321")
    );
    assert_eq!(
        host.sh("deb", "cat /etc/debian_version | cut -d. -f1")
            .ok()
            .text(),
        "12"
    );
}
