//! `exec`: streams, signals and the end of a process in a VM.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use banger_protocol::api::vm::{VmState, WaitResult};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::exec::{
    Channel, ExitStatus, Frame, INITIAL_CREDIT, MAX_PAYLOAD, SendCredit, StartFailure,
    StartFailureKind,
};
use bytes::BytesMut;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Answer, Fake, Process, Run, samples};

/// A daemon whose VMs run this for every exec.
fn running(program: impl Fn(Process) + Clone + Send + Sync + 'static) -> Fake {
    Fake::new(move |request| match request.line().as_str() {
        "POST /v1/vms/web/exec" => {
            let program = program.clone();
            Answer::upgrade(move |stream: UnixStream| program(Process::new(stream)))
        }
        // Asked for where the connection breaks: bangerd is what has gone.
        "GET /v1/vms/web/wait?for=stopped&timeout_ms=2000" => Answer::HangUp,
        line => Answer::not_found(line),
    })
}

/// Waits for a frame of the client's.
fn until(frames: &mpsc::Receiver<Frame>, wanted: &Frame) {
    while frames
        .recv_timeout(Duration::from_secs(20))
        .unwrap_or_else(|_| panic!("no {wanted:?}"))
        != *wanted
    {}
}

fn failed(kind: StartFailureKind) -> ExitStatus {
    ExitStatus::Failed(StartFailure::new(kind, "the reason"))
}

#[test]
fn it_ends_as_the_command_does_and_json_tells_whose_failure_it_was() {
    for (status, code) in [
        (ExitStatus::Code(0), 0),
        (ExitStatus::Code(1), 1),
        // Numbers which banger itself uses, too.
        (ExitStatus::Code(2), 2),
        (ExitStatus::Code(101), 101),
        (ExitStatus::Code(127), 127),
        (ExitStatus::Code(255), 255),
        (ExitStatus::Signal(9), 137),
        (ExitStatus::Signal(15), 143),
    ] {
        let ends = status.clone();
        let fake = running(move |mut process| {
            process.stderr(b"{\"error\":\"the command's own\"}\n");
            process.exit(ends.clone());
        });
        let run = fake.banger(&["exec", "web", "x"]);
        assert_eq!(run.code(), code, "{run}");
        assert!(!run.stderr().contains("banger: "), "{run}");
        let run = fake.banger(&["--json", "exec", "web", "x"]);
        assert_eq!(run.code(), code, "{run}");
        let expected = json!({"exit": {"vm": "web", "code": code, "status": status}});
        assert_eq!(run.last_json(), expected);
    }
}

#[test]
fn what_could_not_be_started() {
    use StartFailureKind::*;
    for (kind, code, is_the_commands) in [
        (NotFound, 127, true),
        (NotExecutable, 126, true),
        (BadUser, 100, false),
        (BadWorkdir, 100, false),
        (BadArguments, 100, false),
        (NoResources, 104, false),
    ] {
        let fake = running(move |process| process.exit(failed(kind)));
        fake.banger(&["exec", "web", "x"]).fails(code, "the reason");
        let run = fake.banger(&["exec", "web", "--json", "x"]);
        assert_eq!(run.code(), code, "{run}");
        let last = run.last_json();
        assert_eq!(last.get("exit").is_some(), is_the_commands, "{run}");
        assert_eq!(last.get("error").is_some(), !is_the_commands, "{run}");
    }
}

/// Echoes stdin to stdout until its end, as far as the client's credit allows.
fn cat(mut process: Process) {
    let mut credit = SendCredit::default();
    let mut unsent = BytesMut::new();
    let mut ended = false;
    while let Some(frame) = process.next() {
        match frame {
            Frame::Stdin(bytes) => {
                process.send(Frame::StdinCredit(bytes.len() as u32));
                unsent.extend_from_slice(&bytes);
            }
            Frame::StdinEof => ended = true,
            Frame::Credit {
                channel: Channel::Stdout,
                bytes,
            } => credit.add(bytes).unwrap(),
            _ => {}
        }
        while credit.available() > 0 && !unsent.is_empty() {
            let count = unsent.len().min(credit.available()).min(MAX_PAYLOAD);
            credit.spend(count);
            process.send(Frame::Stdout(unsent.split_to(count).freeze()));
        }
        if ended && unsent.is_empty() {
            return process.exit(ExitStatus::Code(0));
        }
    }
}

#[test]
fn stdin_ends_and_bytes_are_bytes() {
    let fake = running(cat);
    // More than the first credit, of every byte there is.
    let input: Vec<u8> = (0..2 * INITIAL_CREDIT).map(|n| (n % 251) as u8).collect();
    let run = Run::with_input(&mut fake.command(&["exec", "web", "--", "cat"]), &input).ok();
    assert!(
        run.output.stdout == input,
        "{} bytes",
        run.output.stdout.len()
    );
    let request = fake.requests().pop().unwrap().json();
    assert_eq!(
        (&request["stdin"], &request["command"]),
        (&json!(true), &json!(["cat"]))
    );
    let run = Run::of(&mut fake.command(&["exec", "web", "cat"])).ok();
    assert_eq!(run.stdout(), "");
}

#[test]
fn stdout_and_stderr_are_kept_apart() {
    let fake = running(|mut process| {
        process.stdout(b"to stdout\n");
        process.stderr(b"to stderr\n");
        process.send(Frame::Lost {
            channel: Channel::Stdout,
            bytes: 7,
        });
        process.exit(ExitStatus::Code(0));
    });
    let run = fake.banger(&["exec", "web", "x"]).ok();
    assert_eq!(run.stdout(), "to stdout\n");
    assert!(run.stderr().contains("to stderr\n"), "{run}");
    assert!(
        run.stderr()
            .contains("banger: 7 bytes of stdout were dropped"),
        "{run}"
    );
}

#[test]
fn what_is_asked_for() {
    let fake = running(|process| process.exit(ExitStatus::Code(0)));
    let mut command = fake.command(&[
        "exec", "-e", "A=1", "-e", "HERE", "-e", "ABSENT", "-u", "1:2", "-w", "/srv", "web", "--",
        "env", "-x",
    ]);
    Run::of(command.env("HERE", "there")).ok();
    fake.banger(&["exec", "--shell", "web", "echo $HOME"]).ok();
    let asked: Vec<_> = fake
        .requests()
        .iter()
        .map(|request| request.json())
        .collect();
    assert_eq!(asked[0]["env"], json!(["A=1", "HERE=there"]));
    assert_eq!(asked[0]["user"], "1:2");
    assert_eq!(asked[0]["workdir"], "/srv");
    assert_eq!(asked[0]["command"], json!(["env", "-x"]));
    let words = asked[1]["command"].as_array().unwrap();
    assert_eq!(words.last().unwrap(), "echo $HOME");
}

#[test]
fn a_connection_that_breaks_is_bangers_failure() {
    let fake = running(|mut process| process.stdout(b"half"));
    let run = fake
        .banger(&["exec", "web", "x"])
        .fails(122, "broke before the command ended");
    assert_eq!(run.stdout(), "half");
    let run = fake.banger(&["exec", "web", "x", "--json"]);
    assert_eq!(
        run.code(),
        122,
        "behind the command it is the command's: {run}"
    );
    let run = fake.banger(&["--json", "exec", "web", "x"]);
    assert_eq!(run.last_json()["error"]["kind"], "daemon_unavailable");
}

#[test]
fn the_first_interrupt_is_the_commands_and_the_second_leaves() {
    let (sender, frames) = mpsc::channel();
    let fake = running(move |mut process| {
        process.stdout(b"ready\n");
        while let Some(frame) = process.next() {
            sender.send(frame).unwrap();
        }
    });
    let mut child = fake
        .command(&["exec", "web", "x"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let signal = frames
        .iter()
        .find(|frame| matches!(frame, Frame::Signal(_)));
    assert_eq!(signal, Some(Frame::Signal(2)));
    kill(pid, Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(2));
    until(&frames, &Frame::Hangup);
}

#[test]
fn signals_are_passed_on_and_a_closed_terminal_hangs_up() {
    let (sender, frames) = mpsc::channel();
    let fake = running(move |mut process| {
        process.stdout(b"ready\n");
        while let Some(frame) = process.next() {
            sender.send(frame).unwrap();
        }
    });
    let mut child = fake
        .command(&["exec", "web", "x"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    for (signal, number) in [
        (Signal::SIGUSR1, 10),
        (Signal::SIGUSR2, 12),
        (Signal::SIGQUIT, 3),
        (Signal::SIGTERM, 15),
    ] {
        kill(pid, signal).unwrap();
        until(&frames, &Frame::Signal(number));
    }
    kill(pid, Signal::SIGHUP).unwrap();
    until(&frames, &Frame::Hangup);
    assert_eq!(child.wait().unwrap().signal(), Some(1));
}

/// `nohup banger …`, and a script's `banger … &`.
#[test]
fn signals_that_were_ignored_from_the_start_stay_so() {
    use std::os::unix::process::CommandExt;
    let (sender, frames) = mpsc::channel();
    let fake = running(move |mut process| {
        process.stdout(b"ready\n");
        while let Some(frame) = process.next() {
            if frame == Frame::Signal(15) {
                return process.exit(ExitStatus::Signal(15));
            }
            sender.send(frame).unwrap();
        }
    });
    let mut command = fake.command(&["exec", "web", "x"]);
    // SAFETY: `signal` is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(pid, signal).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let seen: Vec<Frame> = frames.try_iter().collect();
    assert!(
        !seen.contains(&Frame::Hangup) && !seen.contains(&Frame::Signal(2)),
        "{seen:?}"
    );
}

#[test]
fn a_reader_that_leaves_ends_what_it_read_from() {
    let (sender, frames) = mpsc::channel();
    let fake = running(move |mut process| {
        process.stdout(b"y\n");
        while let Some(frame) = process.next() {
            sender.send(frame).unwrap();
        }
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = Run::of(fake.command(&["exec", "web", "yes"]).stdout(writer));
    assert_eq!((run.code(), run.stderr().as_str()), (141, ""), "{run}");
    until(&frames, &Frame::Hangup);
}

#[test]
fn what_became_of_the_machine_is_told_where_a_command_broke_off() {
    let vm = |state, failure: Option<ApiError>| {
        let mut vm = samples::vm("web", state);
        vm.failure = failure;
        Answer::ok(&WaitResult {
            vm: Some(vm),
            exit_code: None,
        })
    };
    let died = ApiError::new(
        ErrorKind::MachineDied,
        "the machine of VM web died: signal 9",
    );
    let over = ApiError::new(ErrorKind::Timeout, "was not stopped within 2s");
    type Given = Box<dyn Fn() -> Answer + Send + Sync>;
    let cases: [(Given, ErrorKind, &str); 5] = [
        (
            Box::new(move || vm(VmState::Failed, Some(died.clone()))),
            ErrorKind::MachineDied,
            "the machine of VM web died: signal 9",
        ),
        (
            Box::new(move || vm(VmState::Stopped, None)),
            ErrorKind::WrongState,
            "VM web stopped before the command ended",
        ),
        (
            Box::new(|| Answer::not_found("VM web")),
            ErrorKind::NotFound,
            "VM web was deleted before the command ended",
        ),
        (
            Box::new(move || Answer::error(&over)),
            ErrorKind::GuestUnreachable,
            "VM web is running, but the command was broken off",
        ),
        (
            Box::new(|| Answer::HangUp),
            ErrorKind::DaemonUnavailable,
            "the connection to bangerd broke before the command ended",
        ),
    ];
    for (given, kind, words) in cases {
        let fake = Fake::new(move |request| match request.line().as_str() {
            "POST /v1/vms/web/exec" => Answer::upgrade(drop::<UnixStream>),
            "GET /v1/vms/web/wait?for=stopped&timeout_ms=2000" => given(),
            "GET /v1/vms/web" => Answer::ok(&samples::vm("web", VmState::Running)),
            line => Answer::not_found(line),
        });
        fake.banger(&["exec", "web", "x"])
            .fails(i32::from(kind.exit_code()), words);
    }
}
