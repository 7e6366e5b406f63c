//! States, crashes and recovery, with real machines.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_e2e::host::{Host, alive, wait_until};
use banger_e2e::run::Run;
use nix::sys::signal::{Signal, kill};

#[test]
fn what_was_written_before_stop_is_there_after_start() {
    let host = Host::new();
    host.vm("busybox", "box");
    host.sh("box", "echo kept > /root/file; mkdir -p /var/lib/docker; echo deep > /var/lib/docker/file; mv /bin /bin2; mv /bin2 /bin").ok();
    let vmm = host.vmm_pid("box");
    host.banger(&["vm", "stop", "box"]).ok();
    assert_eq!(host.state_of("box"), "stopped");
    assert!(!alive(vmm));
    host.banger(&["vm", "start", "box"]).ok();
    assert_eq!(
        host.sh("box", "cat /root/file /var/lib/docker/file")
            .ok()
            .text(),
        "kept\ndeep"
    );
    assert_eq!(
        host.sh("box", "dmesg | grep -ciE 'error|corrupt' || true")
            .ok()
            .text()
            .parse::<u32>()
            .unwrap_or(9),
        0
    );
}

#[test]
fn the_disk_of_a_killed_machine_is_still_a_file_system() {
    let host = Host::new();
    host.vm("busybox", "box");
    host.sh("box", "echo kept > /root/file; sync; yes > /root/noise &")
        .ok();
    let mut command = host.command(&["vm", "exec", "box", "--", "sleep", "1000"]);
    let client = std::thread::spawn(move || Run::of(&mut command, b""));
    wait_until("the command runs", || {
        host.sh("box", "grep -qx sleep /proc/[0-9]*/comm")
            .status
            .success()
    });
    kill(host.vmm_pid("box"), Signal::SIGKILL).unwrap();
    host.wait_for_state("box", "failed");
    client
        .join()
        .unwrap()
        .fails(119, "the machine of VM box died");
    let shown = host.show("box");
    assert_eq!(shown["failure"]["kind"], "machine_died", "{shown}");
    host.banger(&["vm", "exec", "box", "--", "true"])
        .fails(104, "failed");
    host.banger(&["vm", "start", "box"]).ok();
    assert_eq!(host.sh("box", "cat /root/file").ok().text(), "kept");
    host.banger(&["vm", "stop", "box"]).ok();
    let id = host.show("box")["id"].as_str().unwrap().to_owned();
    let upper = host.state().join("vms").join(id).join("upper");
    Run::of(Command::new("e2fsck").arg("-fn").arg(&upper), b"").ok();
}

#[test]
fn poweroff_stops_and_reboot_restarts() {
    let host = Host::new();
    host.vm("busybox", "box");
    host.sh("box", "echo kept > /root/file; poweroff");
    host.wait_for_state("box", "stopped");
    host.banger(&["vm", "start", "box"]).ok();
    let first = host.vmm_pid("box");
    host.sh("box", "cat /root/file; reboot");
    wait_until("it runs again", || {
        let shown = host.show("box");
        shown["state"] == "running"
            && shown["machine"]["pid"].as_i64() != Some(i64::from(first.as_raw()))
    });
    assert_eq!(host.sh("box", "cat /root/file").ok().text(), "kept");
}

#[test]
fn a_restarted_daemon_adopts_what_runs() {
    let host = Host::new();
    host.vm("busybox", "box");
    host.sh("box", "echo 1 > /tmp/marker").ok();
    let mut client = host
        .command(&[
            "vm",
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "echo up; sleep 6; echo done > /tmp/went-on",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    client.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let vmm = host.vmm_pid("box");
    host.crash_daemon();
    assert!(alive(vmm));
    let _ = client.wait();

    assert_eq!(host.sh("box", "cat /tmp/marker").ok().text(), "1");
    assert_eq!(host.vmm_pid("box"), vmm);
    wait_until("the exec went on", || {
        host.sh("box", "cat /tmp/went-on").text() == "done"
    });

    // Killed while no daemon lives: nothing says that it runs.
    host.crash_daemon();
    kill(vmm, Signal::SIGKILL).unwrap();
    wait_until("the VMM is gone", || !alive(vmm));
    let state = host.state_of("box");
    assert!(state == "failed" || state == "stopped", "{state}");
    host.banger(&["vm", "start", "box"]).ok();
}

#[test]
fn a_daemon_killed_while_it_creates_leaves_nothing() {
    let host = Host::new();
    for delay in [5, 50, 200, 700, 1500, 3000] {
        let mut client = host
            .command(&["vm", "create", "busybox", "--name", "half"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        host.crash_daemon();
        let _ = client.wait();
        for name in host.vm_names() {
            host.banger(&["vm", "delete", &name]).ok();
        }
        assert_eq!(host.vm_directories(), [] as [&str; 0], "after {delay} ms");
    }
}

#[test]
fn an_interrupted_create_undoes_itself() {
    let host = Host::new();
    host.daemon();
    let mut client = host
        .command(&["vm", "create", "busybox", "--name", "half"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it exists", || host.vm_names() == ["half"]);
    kill(
        nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert!(!client.wait().unwrap().success());
    wait_until("it is gone", || host.vm_names().is_empty());
    assert_eq!(host.vm_directories(), [] as [&str; 0]);
}

#[test]
fn deleting_a_running_vm_stops_it() {
    let host = Host::new();
    host.vm("busybox", "one");
    host.vm("busybox", "two");
    let pids = [host.vmm_pid("one"), host.vmm_pid("two")];
    let run = host.banger(&["rm", "one", "ghost", "two", "one"]);
    assert_eq!(run.code(), 101, "{run}");
    assert_eq!(host.vm_names(), [] as [&str; 0]);
    assert!(!pids.into_iter().any(alive));
}

#[test]
fn an_image_in_use_loses_only_its_name() {
    let host = Host::new();
    let named = || inodes(&host.state().join("images/bases"));
    host.vm("busybox", "box");
    let before = named();
    host.banger(&["image", "delete", "busybox"]).ok();
    host.banger(&["image", "prune"]).ok();
    let lost: Vec<u64> = before.difference(&named()).copied().collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    host.banger(&["image", "show", "busybox"])
        .fails(101, "busybox");
    host.banger(&["vm", "stop", "box"]).ok();
    host.banger(&["vm", "start", "box"]).ok();
    assert_eq!(host.sh("box", "echo fine").ok().text(), "fine");
    assert!(inodes(&host.state()).contains(&lost[0]));
    host.banger(&["vm", "delete", "box"]).ok();
    assert!(!inodes(&host.state()).contains(&lost[0]));
}

/// Of all files below.
fn inodes(directory: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) => drop(found.insert(metadata.ino())),
                // Gone since it was listed.
                Err(_) => {}
            }
        }
    }
    found
}

#[test]
fn a_fresh_vm_takes_little_disk() {
    let host = Host::new();
    host.banger(&["vm", "create", "--no-start", "--name", "cold", "busybox"])
        .ok();
    let used = host.show("cold")["disk_used_bytes"].as_u64().unwrap();
    assert!(used <= 1 << 20, "{used} bytes before boot");
}

#[test]
fn a_full_console_does_not_fill_the_disk() {
    let host = Host::with_config("console_log_size = \"1M\"\n");
    host.vm("busybox", "box");
    let id = host.show("box")["id"].as_str().unwrap().to_owned();
    let log = host.state().join("vms").join(&id).join("jail/console.log");
    let flood = "i=0; while [ $i -lt 10000 ]; do echo $i-0123456789012345678901234567890123456789012345678901234567890123456789; i=$((i+1)); done > /dev/console";
    host.sh("box", &format!("{flood}; {flood}; {flood}; {flood}"))
        .ok();
    let size = || fs::metadata(&log).map_or(0, |metadata| metadata.len());
    assert!(size() > 0 && size() <= 2 << 20, "{} bytes", size());
    // Nobody reads now; nothing may pile up, and the guest must not hang.
    host.crash_daemon();
    let before = size();
    let mut waiting = host
        .command(&["vm", "exec", "box", "--", "true"])
        .spawn()
        .unwrap();
    waiting.wait().unwrap();
    host.sh("box", &format!("{flood}; echo through")).ok();
    assert!(size() <= before.max(2 << 20), "{} bytes", size());
}

/// QEMU stops a machine whose write finds no room, rather than tell the guest of an error.
#[test]
fn a_full_disk_only_holds_a_machine_up() {
    if !nix::unistd::geteuid().is_root() {
        banger_e2e::skip("root");
        return;
    }
    let host = Host::on_a_small_disk(700);
    host.vm("busybox", "box");
    let ballast = host.state().join("ballast");
    let free = || {
        let disk = nix::sys::statvfs::statvfs(&host.state()).unwrap();
        disk.blocks_available() * disk.fragment_size()
    };
    fs::write(
        &ballast,
        vec![1; usize::try_from(free() - (16 << 20)).unwrap()],
    )
    .unwrap();
    let mut writer = host
        .command(&[
            "vm",
            "exec",
            "box",
            "--",
            "/bin/sh",
            "-c",
            "dd if=/dev/urandom of=/root/much bs=1024k count=64 2> /dev/null && sync && md5sum < /root/much",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the machine is held up, and says why", || {
        let shown = host.show("box");
        shown["state"] == "unresponsive"
            && shown["note"]
                .as_str()
                .is_some_and(|note| note.contains("full"))
    });
    // The daemon still answers all that needs no room.
    assert_eq!(host.vm_names(), ["box"]);

    fs::remove_file(&ballast).unwrap();
    let mut sum = String::new();
    let mut stdout = writer.stdout.take().unwrap();
    stdout.read_to_string(&mut sum).unwrap();
    assert!(writer.wait().unwrap().success());
    host.wait_for_state("box", "running");
    assert_eq!(host.show("box")["note"], serde_json::Value::Null);
    host.banger(&["vm", "stop", "box"]).ok();
    host.banger(&["vm", "start", "box"]).ok();
    let again = host.sh("box", "md5sum < /root/much").ok().text();
    assert_eq!(sum.trim(), again);
}
