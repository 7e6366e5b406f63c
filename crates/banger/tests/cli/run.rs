//! `vm run` and `vm create`: what they ask bangerd for, and how they end.

use banger_protocol::api::operation::{OperationKind, OperationResult};
use banger_protocol::api::vm::{VmState, WaitResult};
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::exec::ExitStatus;
use serde_json::json;

use crate::support::{Answer, Fake, Process, Request, Run, samples};

/// A daemon that makes the VM `web`, whose main prints and ends with 7.
fn route(request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path) {
        ("POST", "/v1/vms") => {
            let vm = Box::new(samples::vm("web", VmState::Running));
            Answer::lines(&samples::succeeded(
                OperationKind::VmCreate,
                OperationResult::Vm { vm },
            ))
        }
        ("POST", "/v1/vms/0123456789ab/main") => Answer::upgrade(|stream| {
            let mut process = Process::new(stream);
            process.stdout(b"out\n");
            process.exit(ExitStatus::Code(7));
        }),
        ("GET", "/v1/vms/0123456789ab/wait") => Answer::ok(&WaitResult {
            vm: None,
            exit_code: None,
        }),
        _ => Answer::not_found(&request.line()),
    }
}

#[test]
fn run_creates_joins_and_with_rm_waits_until_it_is_gone() {
    let fake = Fake::new(route);
    let run = fake.banger(&["vm", "run", "--rm", "debian", "--", "uname", "-r"]);
    assert_eq!((run.code(), run.stdout().as_str()), (7, "out\n"), "{run}");
    // Not a terminal: one line per stage.
    assert_eq!(run.stderr(), "[boot] waiting\n");
    let lines = fake.lines();
    assert_eq!(lines[0], "POST /v1/vms");
    assert_eq!(lines[1], "POST /v1/vms/0123456789ab/main");
    assert!(lines[2].contains("for=deleted"), "{lines:?}");
    let requests = fake.requests();
    let create = requests[0].json();
    assert_eq!(create["image"], "debian");
    assert_eq!(create["ephemeral"], true);
    assert!(
        create.get("main").is_none_or(serde_json::Value::is_null),
        "{create}"
    );
    assert_eq!(requests[1].json()["command"], json!(["uname", "-r"]));
}

#[test]
fn the_flags_are_the_request() {
    let fake = Fake::new(route);
    for line in [
        "run -d --name web --vcpu 2 -m 1g --disk-size 5GiB --kernel k --init image -e A=1 -u me -w / debian",
        "vm run -d --name web --vcpu 2 --memory 1024 --disk-size 5120M --kernel-ref k --init image \
         --env A=1 --user me --workdir / --image debian",
        "vm create --name web --vcpu 2 --memory 1024MiB --disk-size 5G --kernel k --init image -e A=1 \
         -u me -w / debian",
    ] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let run = fake.banger(&[arguments.as_slice(), &["-q"]].concat()).ok();
        assert_eq!(
            (run.stdout().as_str(), run.stderr().as_str()),
            ("web\n", "")
        );
        let mut asked = fake.requests().pop().unwrap().json();
        let asked = asked.as_object_mut().unwrap();
        let main = asked.remove("main");
        assert_eq!(main.is_some(), line.contains("run"), "{line}");
        asked.retain(|_, value| !matches!(value, serde_json::Value::Bool(false)));
        let expected = json!({
            "name": "web", "image": "debian", "kernel": "k", "vcpus": 2, "memory_mib": 1024,
            "disk_mib": 5120, "init": "image", "env": ["A=1"], "user": "me", "workdir": "/",
        });
        assert_eq!(serde_json::Value::from(asked.clone()), expected, "{line}");
    }
}

#[test]
fn without_an_image_the_daemons_default_is_meant() {
    let fake = Fake::new(route);
    fake.banger(&["run", "--", "true"]);
    fake.banger(&["vm", "create", "--no-start"]).ok();
    let requests = fake.requests();
    for request in [&requests[0], requests.last().unwrap()] {
        assert!(request.json().get("image").is_none(), "{request:?}");
    }
    assert_eq!(requests.last().unwrap().json()["no_start"], true);
    // Help shows what that daemon would take.
    let help = fake.banger(&["vm", "run", "--help"]).ok().stdout();
    for said in ["house-image", "[default: 3]", "1.5 GiB", "5 GiB"] {
        assert!(help.contains(said), "{said}: {help}");
    }
}

#[test]
fn detached_it_prints_the_name_or_the_vm() {
    let fake = Fake::new(route);
    let run = fake
        .banger(&["run", "-d", "--json", "debian", "sleep", "9"])
        .ok();
    assert_eq!(run.json()["name"], "web");
    assert_eq!(run.stderr(), "");
    let asked = fake.requests().pop().unwrap().json();
    assert_eq!(asked["main"]["command"], json!(["sleep", "9"]));
    assert_eq!(fake.lines(), ["POST /v1/vms"]);
}

#[test]
fn a_machine_that_does_not_boot_ends_with_reason_console_and_command() {
    let fake = Fake::new(|_| {
        let error = ApiError::new(ErrorKind::BootFailed, "VM web did not boot")
            .details(vec!["[    1.0] Kernel panic\u{7}".into()])
            .hint("banger vm logs --console web");
        Answer::lines(&samples::failed(OperationKind::VmCreate, error))
    });
    let run = fake.banger(&["-q", "run", "--rm", "debian", "true"]);
    assert_eq!(run.code(), 117);
    assert_eq!(
        run.stderr(),
        "banger: VM web did not boot\n  [    1.0] Kernel panic\u{fffd}\n\
         hint: banger vm logs --console web\n"
    );
    let run = fake.banger(&["run", "--json", "debian", "true"]);
    assert_eq!(run.code(), 117);
    assert_eq!(
        run.last_json()["error"]["hint"],
        "banger vm logs --console web"
    );
}

#[test]
fn a_daemon_that_goes_away_in_the_middle_names_the_operation() {
    let fake = Fake::new(|_| {
        let mut events = samples::failed(
            OperationKind::VmCreate,
            ApiError::new(ErrorKind::Internal, "never sent"),
        );
        events.truncate(2);
        Answer::lines(&events)
    });
    fake.banger(&["vm", "create", "debian"])
        .fails(122, "banger operation show ba9876543210");
}

#[test]
fn every_refusal_of_the_daemon_has_its_exit_code() {
    for kind in ErrorKind::ALL {
        let error = ApiError::new(*kind, "it failed").hint("mend it");
        let fake = Fake::new(move |_| Answer::error(&error));
        let run = fake.banger(&["vm", "show", "web"]);
        assert_eq!(run.code(), i32::from(kind.exit_code()));
        assert_eq!(run.stderr(), "banger: it failed\nhint: mend it\n");
        let run: Run = fake.banger(&["vm", "show", "web", "--json"]);
        assert_eq!(
            run.last_json(),
            json!({"error": {"kind": kind, "message": "it failed", "hint": "mend it"}})
        );
    }
}
