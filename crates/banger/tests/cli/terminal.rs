//! What a person at a terminal gets: a raw one for the command, their own back, bars for progress.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use banger_protocol::api::operation::{OperationKind, OperationResult};
use banger_protocol::api::vm::VmState;
use banger_protocol::exec::{ExitStatus, Frame};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::support::{Answer, Fake, Process, samples};

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A terminal of 30 lines and 99 columns, and the CLI on it.
fn on_a_terminal(mut command: Command) -> (OpenptyResult, std::process::Child) {
    let terminal = openpty(None, None).unwrap();
    tcsetwinsize(&terminal.slave, size(30, 99)).unwrap();
    let end = || terminal.slave.try_clone().unwrap();
    let child = command
        .env("TERM", "xterm-banger")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    (terminal, child)
}

fn settings(terminal: &OpenptyResult) -> Termios {
    tcgetattr(terminal.slave.as_fd()).unwrap()
}

/// All that was written to a terminal nobody else has open any more.
fn screen(terminal: OpenptyResult) -> String {
    let OpenptyResult { master, slave } = terminal;
    drop::<OwnedFd>(slave);
    let mut bytes = Vec::new();
    // A terminal ends with EIO.
    let _ = File::from(master).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_shell_has_the_terminal_and_gives_it_back() {
    let (sender, frames) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let ends = std::sync::Mutex::new(Some(ends));
    let fake = Fake::new(move |request| {
        assert_eq!(request.line(), "POST /v1/vms/web/exec");
        let (sender, ends) = (sender.clone(), ends.lock().unwrap().take());
        Answer::upgrade(move |stream| {
            let mut process = Process::new(stream);
            process.stdout(b"prompt");
            sender.send(process.next().unwrap()).unwrap();
            // Until the test has looked at the terminal.
            let _ = ends.unwrap().recv();
            process.exit(ExitStatus::Code(5));
        })
    });
    let (terminal, mut child) = on_a_terminal(fake.command(&["exec", "web"]));
    let before = settings(&terminal);
    assert!(
        before
            .local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO)
    );

    let mut prompt = [0; 6];
    let mut master = File::from(terminal.master.try_clone().unwrap());
    master.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"prompt");
    let raw = settings(&terminal);
    assert!(
        !raw.local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    );

    tcsetwinsize(&terminal.slave, size(40, 120)).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGWINCH).unwrap();
    let resized = Frame::Resize {
        rows: 40,
        columns: 120,
    };
    let frame = frames.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(frame, resized);

    end.send(()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(settings(&terminal), before);
    let asked = fake.requests().pop().unwrap().json();
    assert_eq!(asked["terminal"], json!({"rows": 30, "columns": 99}));
    assert_eq!(asked["env"], json!(["TERM=xterm-banger"]));
    assert_eq!(asked["stdin"], true);
}

#[test]
fn a_command_does_not_take_the_keyboard_unless_it_is_asked_for() {
    for (line, terminal, stdin) in [
        ("exec web -- make", false, false),
        ("exec -i web -- cat", false, true),
        ("exec -t web -- top", true, true),
        ("exec -it web -- sh", true, true),
        ("exec web", true, true),
    ] {
        let fake =
            Fake::new(|_| Answer::upgrade(|stream| Process::new(stream).exit(ExitStatus::Code(0))));
        let arguments: Vec<&str> = line.split(' ').collect();
        let (_terminal, mut child) = on_a_terminal(fake.command(&arguments));
        assert!(child.wait().unwrap().success(), "{line}");
        let asked = fake.requests().pop().unwrap().json();
        assert_eq!(asked.get("terminal").is_some(), terminal, "{line}");
        assert_eq!(asked["stdin"], stdin, "{line}");
    }
}

#[test]
fn progress_is_a_bar_that_goes_away() {
    let fake = Fake::new(|_| {
        let vm = Box::new(samples::vm("web", VmState::Running));
        Answer::lines(&samples::succeeded(
            OperationKind::VmCreate,
            OperationResult::Vm { vm },
        ))
    });
    let (terminal, mut child) = on_a_terminal(fake.command(&["vm", "create", "debian"]));
    assert!(child.wait().unwrap().success());
    let screen = screen(terminal);
    assert!(screen.contains("\u{1b}["), "{screen:?}");
    assert!(!screen.contains("[boot] waiting\r\n"), "{screen:?}");
    assert!(screen.ends_with("web\r\n"), "{screen:?}");
    let (terminal, mut child) = on_a_terminal(fake.command(&["-q", "vm", "create", "debian"]));
    assert!(child.wait().unwrap().success());
    assert_eq!(self::screen(terminal), "web\r\n");
}

#[test]
fn whoever_leaves_a_machine_running_is_told_so() {
    for (flags, told) in [(&[][..], true), (&["--rm"], false), (&["-q"], false)] {
        let fake = Fake::new(|request| match request.method.as_str() {
            "POST" if request.path == "/v1/vms" => {
                let vm = Box::new(samples::vm("web", VmState::Running));
                Answer::lines(&samples::succeeded(
                    OperationKind::VmCreate,
                    OperationResult::Vm { vm },
                ))
            }
            "POST" => Answer::upgrade(|stream| Process::new(stream).exit(ExitStatus::Code(3))),
            _ => Answer::not_found("VM"),
        });
        let arguments = [&["run"], flags, &["busybox", "--", "x"]].concat();
        let (terminal, mut child) = on_a_terminal(fake.command(&arguments));
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let screen = screen(terminal);
        assert_eq!(screen.contains("web stays"), told, "{flags:?}: {screen}");
    }
}
