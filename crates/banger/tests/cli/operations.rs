//! Long actions: several at a time, cancelled, and looked at by another client.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use banger_protocol::api::operation::{
    OperationEvent, OperationKind, OperationResult, OperationState,
};
use banger_protocol::api::vm::WaitResult;
use banger_protocol::error::{ApiError, ErrorKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::fake::line;
use crate::support::{Answer, Fake, samples};

fn deleted(name: &str) -> Answer {
    Answer::lines(&samples::succeeded(
        OperationKind::VmDelete,
        OperationResult::Deleted { name: name.into() },
    ))
}

/// `a` and `b` exist.
fn deletions() -> Fake {
    Fake::new(|request| match request.line().as_str() {
        "GET /v1/vms" => Answer::ok(&serde_json::json!({"vms": []})),
        "DELETE /v1/vms/a" => {
            // Slower than the others; it is still told first.
            std::thread::sleep(Duration::from_millis(30));
            deleted("a")
        }
        "DELETE /v1/vms/b" => deleted("b"),
        "DELETE /v1/vms/busy" => Answer::error(&ApiError::new(ErrorKind::InUse, "busy")),
        _ => Answer::not_found("VM"),
    })
}

#[test]
fn all_targets_are_done_in_order_and_the_first_failure_counts() {
    let fake = deletions();
    let run = fake.banger(&["vm", "delete", "-q", "a", "none", "busy", "b", "a"]);
    assert_eq!(
        (run.code(), run.stdout().as_str()),
        (101, "a\nb\n"),
        "{run}"
    );
    assert_eq!(run.stderr(), "banger: there is no VM\nbanger: busy\n");
    let deletes = fake
        .lines()
        .iter()
        .filter(|line| line.ends_with("/a"))
        .count();
    assert_eq!(deletes, 1);
    let run = fake.banger(&["rm", "-qf", "a", "none", "b"]).ok();
    assert_eq!(
        (run.stdout().as_str(), run.stderr().as_str()),
        ("a\nb\n", "")
    );
    let run = fake.banger(&["rm", "--json", "a", "b"]).ok();
    let names: Vec<serde_json::Value> = run
        .stdout()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&names[0]["name"], &names[1]["name"]),
        (&"a".into(), &"b".into())
    );
}

#[test]
fn lines_name_the_target_where_there_are_several() {
    let fake = deletions();
    assert_eq!(fake.banger(&["rm", "b"]).ok().stderr(), "[boot] waiting\n");
    let several = fake.banger(&["rm", "b", "a"]).ok().stderr();
    assert!(several.contains("a [boot] waiting\n"), "{several}");
    assert!(several.contains("b [boot] waiting\n"), "{several}");
}

#[test]
fn an_interrupt_cancels_and_waits_until_it_is_undone() {
    let kind = OperationKind::VmCreate;
    let (cancel, cancelled) = mpsc::channel();
    let (cancel, cancelled) = (Mutex::new(cancel), Arc::new(Mutex::new(cancelled)));
    let fake = Fake::new(move |request| match request.line().as_str() {
        "POST /v1/vms" => {
            let cancelled = cancelled.clone();
            Answer::stream(move |out| {
                let started = OperationEvent::Started {
                    operation: samples::operation(kind, OperationState::Running),
                };
                let progress = OperationEvent::Progress {
                    stage: "boot".into(),
                    detail: String::new(),
                    done: 0,
                    total: None,
                    at_ms: 0,
                };
                out.write_all(line(&started).as_bytes()).unwrap();
                out.write_all(line(&progress).as_bytes()).unwrap();
                cancelled.lock().unwrap().recv().unwrap();
                let ended = OperationEvent::Ended {
                    operation: samples::operation(kind, OperationState::Cancelled),
                };
                out.write_all(line(&ended).as_bytes()).unwrap();
            })
        }
        "POST /v1/operations/ba9876543210/cancel" => {
            cancel.lock().unwrap().send(()).unwrap();
            Answer::ok(&samples::operation(kind, OperationState::Running))
        }
        line => Answer::not_found(line),
    });
    let mut child = fake
        .command(&["vm", "create", "debian"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert_eq!(said, "[boot]\n");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("cancelling"), "{said}");
    assert!(said.ends_with("banger: interrupted\n"), "{said}");
    // A shell sees the signal and stops its loop.
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert_eq!(fake.lines().len(), 2);
}

#[test]
fn following_shows_the_end_and_exits_as_it_ended() {
    let fake = Fake::new(|request| match request.line().as_str() {
        "GET /v1/operations/ba9876543210/events" => Answer::lines(&samples::failed(
            OperationKind::ImagePull,
            ApiError::new(ErrorKind::NoSpace, "the disk is full"),
        )),
        line => Answer::not_found(line),
    });
    let run = fake.banger(&["operation", "follow", "ba9876543210"]);
    assert_eq!(run.code(), 114, "{run}");
    assert!(run.stdout().contains("the disk is full"), "{run}");
    let run = fake.banger(&["operation", "follow", "ba9876543210", "--json"]);
    let last = run.stdout().lines().last().unwrap().to_owned();
    let last: OperationEvent = serde_json::from_str(&last).unwrap();
    assert!(matches!(last, OperationEvent::Ended { .. }));
}

#[test]
fn waiting_prints_the_exit_code_of_main() {
    let fake = Fake::new(|request| {
        assert!(request.path.contains("for=main"), "{request:?}");
        Answer::ok(&WaitResult {
            vm: None,
            exit_code: Some(3),
        })
    });
    assert_eq!(fake.banger(&["vm", "wait", "job"]).ok().stdout(), "3\n");
    // The bound is passed on, rounded to nothing shorter.
    fake.banger(&["vm", "wait", "job", "--timeout", "2s"]).ok();
    assert!(
        fake.lines()[1].ends_with("timeout_ms=2000"),
        "{:?}",
        fake.lines()
    );
}
