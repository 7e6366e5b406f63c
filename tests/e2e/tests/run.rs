//! `vm run` and `vm create`: what a VM and its `main` are, and when each ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use banger_e2e::host::{Host, wait_until};
use banger_e2e::terminal::Terminal;

#[test]
fn run_is_one_command_with_its_exit_code() {
    let host = Host::new();
    let run = host.banger(&[
        "vm",
        "run",
        "--rm",
        "busybox",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!((run.code(), run.text().as_str()), (3, "out"), "{run}");
    assert!(run.stderr.contains("err\n"), "{run}");
    assert_eq!(host.vm_names(), [] as [&str; 0]);

    let run = host
        .banger_with(&["run", "--rm", "busybox", "cat"], b"through\n")
        .ok();
    assert_eq!(run.text(), "through");
}

#[test]
fn from_scratch_boots() {
    let host = Host::new();
    let run = host.banger(&[
        "vm",
        "run",
        "--rm",
        "scratch",
        "--",
        "/busybox",
        "ls",
        "/proc/1/exe",
        "/dev/null",
        "/tmp",
        "/etc/hosts",
    ]);
    assert!(run.ok().text().contains("/etc/hosts"));
}

#[test]
fn a_machine_outlives_its_command() {
    let host = Host::new();
    host.banger(&[
        "vm",
        "run",
        "--name",
        "box",
        "busybox",
        "--",
        "sh",
        "-c",
        "echo main says hi; exit 4",
    ])
    .fails(4, "");
    assert_eq!(host.state_of("box"), "running");
    assert_eq!(
        host.banger(&["vm", "logs", "box"]).ok().text(),
        "main says hi"
    );
    let waited = host.banger(&["--json", "vm", "wait", "box", "--for", "main"]);
    assert_eq!(waited.json()["exit_code"], 4);
    assert_eq!(host.sh("box", "echo still").ok().text(), "still");
}

#[test]
fn detached_main_belongs_to_the_vm() {
    let host = Host::new();
    let name = host
        .banger(&[
            "vm",
            "run",
            "-d",
            "busybox",
            "--",
            "sh",
            "-c",
            "echo boot; sleep 1000",
        ])
        .ok()
        .text();
    wait_until("main has spoken", || {
        host.banger(&["vm", "logs", &name]).text() == "boot"
    });
    host.banger(&["vm", "stop", &name]).ok();
    assert_eq!(host.banger(&["vm", "logs", &name]).ok().text(), "boot");
    host.banger(&["vm", "start", &name]).ok();
    wait_until("main has spoken again", || {
        host.banger(&["vm", "logs", &name])
            .text()
            .ends_with("boot\nboot")
    });
    let last = host.banger(&["logs", "--tail", "1", &name]).ok().text();
    assert_eq!(last, "boot");
    let run = host.banger(&[
        "vm", "run", "-d", "--name", "odd", "busybox", "--", "nosuch",
    ]);
    assert!(
        run.stderr.contains("odd: its main was not started: nosuch"),
        "{run}"
    );
    run.ok();
    assert_eq!(host.state_of("odd"), "running");
}

#[test]
fn logs_follow() {
    let host = Host::new();
    host.banger(&[
        "vm",
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3; do echo line $i; sleep 1; done",
    ])
    .ok();
    let follow = host
        .command(&["logs", "-f", "box"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    host.banger(&["vm", "wait", "box", "--for", "main"]).ok();
    host.banger(&["vm", "stop", "box"]).ok();
    let output = follow.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "line 1\nline 2\nline 3\n"
    );
    assert!(
        host.banger(&["vm", "logs", "--console", "box"])
            .ok()
            .status
            .success()
    );
}

const SLEEPS: &str = "grep -qx sleep /proc/[0-9]*/comm";

/// A connection only attaches to `main`: a client that dies ends nothing.
#[test]
fn ephemeral_goes_when_main_ends_also_without_its_client() {
    let host = Host::new();
    let mut client = host
        .command(&[
            "vm", "run", "--rm", "--name", "gone", "busybox", "--", "sleep", "1000",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("main runs", || host.sh_if_running("gone", SLEEPS));
    client.kill().unwrap();
    client.wait().unwrap();
    host.sh("gone", SLEEPS).ok();
    host.sh("gone", "killall sleep").ok();
    wait_until("the VM is gone", || host.vm_names().is_empty());
}

/// A terminal that is closed asks its programs to end, and `main` is asked too.
#[test]
fn a_closed_terminal_ends_main() {
    let host = Host::new();
    let mut client = host
        .command(&[
            "vm", "run", "--rm", "--name", "gone", "busybox", "--", "sleep", "1000",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("main runs", || host.sh_if_running("gone", SLEEPS));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let status = client.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(nix::sys::signal::Signal::SIGHUP as i32),
        "{status}"
    );
    wait_until("the VM is gone", || host.vm_names().is_empty());
}

#[test]
fn a_shell_on_a_terminal() {
    let host = Host::new();
    let mut terminal = Terminal::run(&mut host.command(&["vm", "run", "--rm", "busybox"]), 30, 90);
    terminal.expect("# ");
    terminal.type_text("stty size; exit 6\r");
    terminal.expect("30 90");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(6));
    assert_eq!(host.vm_names(), [] as [&str; 0]);
}

#[test]
fn flags_shape_the_machine() {
    let host = Host::new();
    host.banger(&[
        "vm",
        "create",
        "--name",
        "box",
        "--vcpu",
        "2",
        "-m",
        "300M",
        "--disk-size",
        "1G",
        "-e",
        "COLOUR=blue",
        "-u",
        "user",
        "-w",
        "/tmp",
        "busybox",
    ])
    .ok();
    let shown = host.show("box");
    assert_eq!(
        (&shown["vcpus"], &shown["memory_mib"], &shown["disk_mib"]),
        (&2.into(), &300.into(), &1024.into())
    );
    let seen = host.sh("box", "nproc; echo $COLOUR; id -un; pwd; hostname; df -m / | tail -1 | awk '{print ($2 > 900)}'").ok();
    assert_eq!(seen.text(), "2\nblue\nuser\n/tmp\nbox\n1");

    host.banger(&["vm", "create", "--no-start", "--name", "cold", "busybox"])
        .ok();
    assert_eq!(host.state_of("cold"), "created");
    let listed = host.banger(&["ps", "-a"]).ok().text();
    assert!(
        listed.contains("cold") && listed.contains("box"),
        "{listed}"
    );
    let running = host.banger(&["ps"]).ok().text();
    assert!(
        !running.contains("cold") && running.contains("box"),
        "{running}"
    );
}

#[test]
fn refusals_say_what_to_do() {
    let host = Host::new();
    let refused: &[(&[&str], i32, &str)] = &[
        (&["vm", "run", "./here", "--", "true"], 116, "directory"),
        (
            &["vm", "create", "--name", "Bad_Name", "busybox"],
            100,
            "a-z",
        ),
        (&["vm", "create", "--vcpu", "0", "busybox"], 100, "vcpu"),
        (&["vm", "create", "--vcpu", "-1", "busybox"], 100, "-1"),
        (&["vm", "create", "--vcpu", "4000", "busybox"], 100, "4000"),
        (&["vm", "create", "--memory", "1G5", "busybox"], 100, "1G5"),
        (&["vm", "create", "--memory", "0", "busybox"], 100, "memory"),
        (
            &["vm", "create", "--memory", "900T", "busybox"],
            100,
            "memory",
        ),
        (
            &["vm", "create", "--kernel", "nope", "busybox"],
            101,
            "nope",
        ),
        (&["vm", "show", "nobody"], 101, "nobody"),
        (&["vm", "start", "nobody"], 101, "nobody"),
        (&["image", "show", "nothing"], 101, "nothing"),
        (&["kernel", "show", "nothing"], 101, "nothing"),
        (&["kernel", "delete", "../x"], 100, "../x"),
        (&["operation", "show", "ffffffffffff"], 101, "ffffffffffff"),
        (&["image", "pull", "team/UPPER"], 100, "UPPER"),
        (
            &["image", "pull", "oci-archive:/no/such/file", "--name", "x"],
            101,
            "/no/such/file",
        ),
    ];
    for (arguments, code, says) in refused {
        let run = host.banger(arguments);
        assert_eq!(run.code(), *code, "{run}");
        assert!(run.stderr.contains(says), "it does not say {says:?}: {run}");
    }
    assert_eq!(host.vm_names(), [] as [&str; 0]);

    let run = host.banger(&["--json", "vm", "show", "nobody"]);
    let error: serde_json::Value =
        serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");

    host.banger(&["vm", "create", "--no-start", "--name", "one", "busybox"])
        .ok();
    host.banger(&["vm", "create", "--no-start", "--name", "one", "busybox"])
        .fails(103, "one");
    host.banger(&["vm", "exec", "one", "--", "true"])
        .fails(104, "vm start");
}

#[test]
fn a_kernel_that_does_not_boot_says_so_and_keeps_the_vm() {
    let host = Host::with_config("boot_timeout = \"20s\"\n");
    let kernel = broken_kernel(host.root());
    host.banger(&[
        "kernel",
        "import",
        "broken",
        "--from",
        kernel.to_str().unwrap(),
    ])
    .ok();
    let run = host.banger(&[
        "vm", "run", "--rm", "--name", "dead", "--kernel", "broken", "busybox", "--", "true",
    ]);
    assert_eq!(run.code(), 117, "{run}");
    assert!(
        run.stderr.contains("banger vm logs --console dead")
            || run.stderr.contains("logs --console dead"),
        "{run}"
    );
    assert_eq!(host.state_of("dead"), "failed");
    assert_eq!(host.show("dead")["failure"]["kind"], "boot_failed");
}

/// An ELF kernel whose entry point is a halt loop: it is a kernel by all its headers.
fn broken_kernel(root: &std::path::Path) -> std::path::PathBuf {
    let manifest = root.join("state/kernels").join(banger_e2e::fixture::KERNEL);
    let mut bytes = std::fs::read(manifest.join("vmlinux")).unwrap();
    // The first loadable segment begins with the kernel's text.
    let offset = usize::try_from(u64::from_le_bytes(
        bytes[64 + 8..64 + 16].try_into().unwrap(),
    ))
    .unwrap();
    for byte in &mut bytes[offset..offset + (8 << 20)] {
        *byte = 0xf4; // hlt
    }
    let path = root.join("vmlinux");
    std::fs::write(&path, bytes).unwrap();
    path
}
