//! What reads print: the API's own values with `--json`, tables and names without.

use banger_protocol::api::daemon::{Check, CheckStatus, DoctorReport};
use banger_protocol::api::image::ImageList;
use banger_protocol::api::operation::{OperationKind, OperationList, OperationState};
use banger_protocol::api::vm::{VmHealth, VmList, VmState};
use banger_protocol::error::{ApiError, ErrorKind};

use crate::support::{Answer, Fake, Request, samples};

fn vms() -> VmList {
    VmList {
        vms: vec![
            samples::vm("web", VmState::Running),
            samples::vm("db", VmState::Stopped),
        ],
    }
}

fn images() -> ImageList {
    ImageList {
        images: vec![samples::image("debian-12", "catalog:debian-12")],
    }
}

fn report(status: CheckStatus) -> DoctorReport {
    DoctorReport {
        status,
        checks: vec![Check {
            name: "qemu".into(),
            status,
            details: vec!["not found".into()],
        }],
    }
}

fn route(request: &Request) -> Answer {
    match request.line().as_str() {
        "GET /v1/vms" => Answer::ok(&vms()),
        "GET /v1/vms/web" => Answer::ok(&samples::vm("web", VmState::Running)),
        "GET /v1/images" => Answer::ok(&images()),
        "GET /v1/images/debian-12" => Answer::ok(&images().images[0]),
        "GET /v1/kernels" => Answer::ok(&samples::kernels()),
        "GET /v1/kernels/six" => Answer::ok(&samples::kernels().kernels[0]),
        "GET /v1/operations" => Answer::ok(&OperationList {
            operations: vec![samples::operation(
                OperationKind::VmStart,
                OperationState::Running,
            )],
        }),
        "GET /v1/operations/ba9876543210" => Answer::ok(&samples::operation(
            OperationKind::VmStart,
            OperationState::Running,
        )),
        "GET /v1/doctor" => Answer::ok(&report(CheckStatus::Warn)),
        line => Answer::not_found(line),
    }
}

#[test]
fn json_is_the_apis_type() {
    let fake = Fake::new(route);
    let value = |answer: Answer| match answer {
        Answer::Json(_, body) => serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
        _ => panic!("no JSON"),
    };
    for (line, path) in [
        ("vm list", "/v1/vms"),
        ("vm ls", "/v1/vms"),
        ("ps -a", "/v1/vms"),
        ("vm show web", "/v1/vms/web"),
        ("inspect web", "/v1/vms/web"),
        ("image list", "/v1/images"),
        ("images", "/v1/images"),
        ("image show debian-12", "/v1/images/debian-12"),
        ("inspect debian-12", "/v1/images/debian-12"),
        ("kernel list", "/v1/kernels"),
        ("kernel show six", "/v1/kernels/six"),
        ("operation list", "/v1/operations"),
        ("operation show ba9876543210", "/v1/operations/ba9876543210"),
        ("doctor", "/v1/doctor"),
    ] {
        let arguments: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let run = fake.banger(&arguments).ok();
        let expected = value(route(&Request {
            method: "GET".into(),
            path: path.into(),
            body: Vec::new(),
        }));
        assert_eq!(run.json(), expected, "{run}");
        assert_eq!(run.stderr(), "", "{run}");
    }
    let status = fake.banger(&["daemon", "status", "--json"]).ok().json();
    let expected = serde_json::to_value(samples::daemon(fake.root())).unwrap();
    assert_eq!(status, expected);
}

#[test]
fn tables_names_and_filters() {
    let fake = Fake::new(route);
    let names = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        fake.banger(&arguments).ok().stdout()
    };
    assert_eq!(names("ps -q"), "web\n");
    assert_eq!(names("ps -aq"), "web\ndb\n");
    assert_eq!(names("vm list -q"), "web\ndb\n");
    assert_eq!(names("images -q"), "debian-12\n");
    assert_eq!(names("kernel list -q"), "six\n");
    assert_eq!(names("kernel list --available -q"), "seven\n");
    assert_eq!(names("operation list -q"), "ba9876543210\n");
    let table = names("ps");
    assert!(
        table.starts_with("NAME") && table.contains("web"),
        "{table}"
    );
    assert!(!table.contains("db"), "{table}");
}

#[test]
fn doctor_fails_where_a_check_does() {
    for (status, code) in [
        (CheckStatus::Pass, 0),
        (CheckStatus::Warn, 0),
        (CheckStatus::Fail, 115),
    ] {
        let fake = Fake::new(move |_| Answer::ok(&report(status)));
        let run = fake.banger(&["doctor"]);
        assert_eq!(run.code(), code, "{run}");
        assert!(run.stdout().contains("- not found"), "{run}");
        assert_eq!(run.stderr(), "", "{run}");
    }
}

#[test]
fn health_ends_as_the_reason_says() {
    let health = |healthy| VmHealth {
        state: VmState::Running,
        healthy,
        latency_us: healthy.then_some(1500),
        uptime_s: healthy.then_some(7.0),
        error: (!healthy).then(|| ApiError::new(ErrorKind::GuestUnreachable, "no answer")),
    };
    let fake = Fake::new(move |request| Answer::ok(&health(request.path.contains("good"))));
    let good = fake.banger(&["vm", "health", "good"]).ok();
    assert_eq!(good.stdout(), "healthy, answered in 1.5 ms, up for 7 s\n");
    fake.banger(&["vm", "health", "bad"])
        .fails(118, "no answer");
    let bad = fake.banger(&["vm", "health", "bad", "--json"]);
    assert_eq!(
        (bad.code(), bad.json()["healthy"].as_bool()),
        (118, Some(false))
    );
}

#[test]
fn logs_ask_for_what_was_asked_and_print_bytes() {
    let fake = Fake::new(|_| Answer::stream(|out| out.write_all(b"a\xff\n").unwrap()));
    for (line, query) in [
        ("logs web", ""),
        ("vm logs -f --tail 20 web", "?follow=true&tail=20"),
        ("logs --tail all web", ""),
        ("logs -n 0 --console web", "?console=true&tail=0"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let run = fake.banger(&arguments).ok();
        assert_eq!(run.output.stdout, b"a\xff\n");
        let asked = fake.lines().pop().unwrap();
        assert_eq!(asked, format!("GET /v1/vms/web/logs{query}"));
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure_to_tell() {
    let fake = Fake::new(route);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = crate::support::Run::of(fake.command(&["vm", "list"]).stdout(writer));
    assert_eq!(run.code(), 141, "{run}");
    assert_eq!(run.stderr(), "");
}

#[test]
fn hostile_names_do_not_drive_the_terminal() {
    let fake = Fake::new(|_| {
        let mut list = vms();
        list.vms[0].image = "x\u{1b}[2J".into();
        Answer::ok(&list)
    });
    let table = fake.banger(&["vm", "list"]).ok().stdout();
    assert!(!table.contains('\u{1b}'), "{table:?}");
}
