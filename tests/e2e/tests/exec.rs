//! Processes in a running VM.

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use banger_e2e::host::{Host, wait_until};
use banger_e2e::terminal::Terminal;

#[test]
fn exec_is_exact_about_how_a_command_ends() {
    let host = Host::new();
    host.vm("busybox", "box");
    for (line, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        assert_eq!(host.sh("box", line).code(), code, "{line}");
    }
    host.banger(&["vm", "exec", "box", "--", "/no/such/program"])
        .fails(127, "banger: ");
    host.banger(&["vm", "exec", "box", "--", "no-such-program"])
        .fails(127, "no-such-program");
    host.banger(&["vm", "exec", "box", "--", "/etc/passwd"])
        .fails(126, "/etc/passwd");
    host.banger(&["vm", "exec", "nobody", "--", "true"])
        .fails(101, "nobody");

    let run = host.sh("box", "echo out; echo err >&2; exit 3");
    assert_eq!(
        (run.code(), run.text().as_str(), run.stderr.as_str()),
        (3, "out", "err\n")
    );
}

#[test]
fn stdin_is_half_closed_and_bytes_are_bytes() {
    let host = Host::new();
    host.vm("busybox", "box");
    let hi = host
        .banger_with(&["vm", "exec", "box", "--", "cat"], b"hi\n")
        .ok();
    assert_eq!(hi.stdout, b"hi\n");
    // The answer can only come after the end of input.
    let count = host
        .banger_with(
            &["vm", "exec", "box", "--", "wc", "-c"],
            &vec![0xff; 300_000],
        )
        .ok();
    assert_eq!(count.text(), "300000");
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let echoed = host
        .banger_with(&["vm", "exec", "box", "--", "cat"], &bytes)
        .ok();
    assert!(echoed.stdout == bytes, "bytes changed on their way");
    assert_eq!(
        host.banger(&[
            "vm", "exec", "box", "--", "printf", "%s|", "", " a  b ", "$x", "*"
        ])
        .text(),
        "| a  b |$x|*|"
    );
}

#[test]
fn environment_user_and_directory() {
    let host = Host::new();
    host.vm("busybox", "box");
    let sh = |flags: &[&str], line: &str| {
        let mut arguments = vec!["vm", "exec"];
        arguments.extend(flags);
        arguments.extend(["box", "--", "/bin/sh", "-c", line]);
        host.banger(&arguments)
    };
    assert_eq!(
        sh(&["-e", "A=1 2", "--env", "B="], "echo $A,$B.")
            .ok()
            .text(),
        "1 2,."
    );
    assert_eq!(sh(&["-w", "/tmp"], "pwd").ok().text(), "/tmp");
    assert_eq!(
        sh(&["-u", "user"], "id -u; id -g; echo $HOME; id -G")
            .ok()
            .text(),
        "1000\n1000\n/tmp\n1000 2000"
    );
    assert_eq!(
        sh(&["-u", "12345:54321"], "id -u; id -g").ok().text(),
        "12345\n54321"
    );
    assert_eq!(sh(&[], "id -u; echo $HOME; pwd").ok().text(), "0\n/root\n/");
    let run = sh(&["-u", "ghost"], "true");
    assert!(run.stderr.contains("ghost") && run.code() >= 100, "{run}");
    let run = sh(&["-w", "/nowhere"], "true");
    assert!(
        run.stderr.contains("/nowhere") && run.code() >= 100,
        "{run}"
    );
}

#[test]
fn a_gibibyte_arrives_whole_beside_readers_that_do_not_read() {
    let host = Host::new();
    host.vm("busybox", "box");
    // One exec whose output nobody reads, and one whose stderr nobody reads.
    let mut stuck = host
        .command(&["vm", "exec", "box", "--", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let size: u64 = if banger_e2e::full() {
        1 << 30
    } else {
        128 << 20
    };
    let line = format!("(yes err >&2) & head -c {size} /dev/zero; kill $!");
    let mut flood = host
        .command(&["vm", "exec", "box", "--", "/bin/sh", "-c", &line])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = flood.stdout.take().unwrap();
    let mut total = 0;
    let mut buffer = vec![0; 1 << 16];
    while total < size {
        let read = stdout.read(&mut buffer).unwrap();
        assert!(read > 0, "stdout ended after {total} of {size} bytes");
        assert!(buffer[..read].iter().all(|byte| *byte == 0));
        total += read as u64;
    }
    assert_eq!(total, size);
    flood.kill().unwrap();
    flood.wait().unwrap();
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    assert_eq!(host.sh("box", "echo still here").ok().text(), "still here");
}

#[test]
fn a_client_that_hangs_up_ends_what_it_ran() {
    let host = Host::new();
    host.vm("busybox", "box");
    let mut client = host
        .command(&[
            "vm",
            "exec",
            "box",
            "--",
            "/bin/sh",
            "-c",
            "echo up; sleep 1000 & sleep 1001",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    client.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let sleeping = |count: &str| {
        host.sh("box", "grep -lx sleep /proc/[0-9]*/comm | wc -l")
            .text()
            == count
    };
    wait_until("both sleep", || sleeping("2"));
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("the group is gone", || sleeping("0"));
}

#[test]
fn signals_reach_the_process_group() {
    let host = Host::new();
    host.vm("busybox", "box");
    let mut client = host
        .command(&[
            "vm",
            "exec",
            "box",
            "--",
            "/bin/sh",
            "-c",
            "trap 'echo got; exit 9' INT; echo up; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
    assert_eq!(client.wait().unwrap().code(), Some(9));
}

#[test]
fn a_terminal_has_a_size_a_controlling_process_and_is_restored() {
    let host = Host::new();
    host.vm("busybox", "box");
    let mut terminal = Terminal::run(&mut host.command(&["vm", "exec", "box"]), 40, 100);
    terminal.expect("# ");
    let raw = terminal.mode();
    terminal.type_text("stty size; tty\r");
    terminal.expect("40 100");
    terminal.expect("/dev/pts/");
    terminal.resize(24, 80);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()),
        nix::sys::signal::Signal::SIGWINCH,
    )
    .unwrap();
    thread::sleep(Duration::from_millis(500));
    terminal.type_text("stty size\r");
    terminal.expect("24 80");
    // ^C interrupts what runs in front, not the shell.
    terminal.type_text("sleep 1000\r");
    thread::sleep(Duration::from_millis(500));
    terminal.type_text("\x03");
    terminal.type_text("echo $((40+2))\r");
    terminal.expect("42");
    terminal.type_text("exit 5\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(5));
    let restored = terminal.mode();
    assert!(
        restored
            .local_flags
            .contains(nix::sys::termios::LocalFlags::ECHO | nix::sys::termios::LocalFlags::ICANON)
    );
    assert!(
        !raw.local_flags
            .contains(nix::sys::termios::LocalFlags::ICANON)
    );
}

#[test]
fn orphans_and_zombies_are_reaped() {
    let host = Host::new();
    host.vm("busybox", "box");
    host.sh("box", "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.2 &) ; done")
        .ok();
    wait_until("no zombies", || {
        host.sh(
            "box",
            "ps -o stat,comm | grep -c '^Z.*sleep'; ps -o comm | grep -c '^sleep'",
        )
        .text()
            == "0\n0"
    });
}

#[test]
fn many_at_once() {
    let host = Host::new();
    host.vm("busybox", "box");
    let results: Vec<_> = (0..20)
        .map(|number| {
            let mut client = host
                .command(&[
                    "vm",
                    "exec",
                    "box",
                    "--",
                    "/bin/sh",
                    "-c",
                    "read x; echo got $x; exit $x",
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            writeln!(client.stdin.take().unwrap(), "{number}").unwrap();
            (number, client)
        })
        .collect();
    for (number, client) in results {
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(number));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("got {number}\n")
        );
    }
}
