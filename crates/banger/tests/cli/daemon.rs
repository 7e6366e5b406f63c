//! Which daemon answers, when one is started or replaced, and what is only told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::api::operation::{OperationKind, OperationList, OperationState};
use banger_protocol::api::vm::{VmList, VmState};
use banger_protocol::error::{ApiError, ErrorKind};

use crate::support::{Answer, Fake, Request, Run, samples};

fn route(request: &Request) -> Answer {
    match request.line().as_str() {
        "GET /v1/vms" => Answer::ok(&VmList {
            vms: vec![
                samples::vm("web", VmState::Running),
                samples::vm("db", VmState::Stopped),
            ],
        }),
        "GET /v1/images" => Answer::ok(&serde_json::json!({
            "images": [samples::image("webby", "catalog:webby")],
        })),
        "GET /v1/kernels" => Answer::ok(&samples::kernels()),
        "GET /v1/operations" => Answer::ok(&OperationList {
            operations: Vec::new(),
        }),
        "POST /v1/daemon/stop" => Answer::ok(&serde_json::json!({})),
        line => Answer::not_found(line),
    }
}

/// A bangerd which notes that it was started and how, and ends; the test listens in its stead.
fn program(fake: &Fake) -> PathBuf {
    let path = fake.root().join("bangerd");
    let noted = fake.root().join("started");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}.new\nmv {0}.new {0}\n",
        noted.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn started(root: &Path) -> bool {
    root.join("started").exists()
}

fn until_started(root: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !started(root) {
        assert!(Instant::now() < deadline, "bangerd was not started");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn with_program(fake: &Fake, arguments: &[&str]) -> std::process::Command {
    let mut command = fake.command(arguments);
    command.env("BANGERD", program(fake));
    command
}

/// `ps -q` while the daemon behind the socket dies and another is started.
fn replacing_a_dead_one(fake: &Fake, die: impl FnOnce() + Send) -> Run {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            die();
            until_started(fake.root());
            fs::remove_file(fake.root().join("run/bangerd.sock")).unwrap();
            fake.serve(samples::daemon(fake.root()), route);
        });
        Run::of(&mut with_program(fake, &["ps", "-q"]))
    })
    .ok()
}

#[test]
fn one_is_started_where_none_answers_and_that_is_said_once() {
    let fake = Fake::absent();
    // What a crashed daemon leaves behind.
    drop(UnixListener::bind(fake.root().join("run/bangerd.sock")).unwrap());
    let run = replacing_a_dead_one(&fake, || ());
    assert_eq!(run.stdout(), "web\n");
    let said = run.stderr();
    assert_eq!(said.matches("started bangerd").count(), 1, "{said}");
    assert!(said.contains("bangerd.log"), "{said}");
    let how = fs::read_to_string(fake.root().join("started")).unwrap();
    assert_eq!(how, "--started-by-client\n");
    assert_eq!(fake.banger(&["ps", "-q"]).ok().stderr(), "");
}

#[test]
fn one_that_is_killed_while_it_is_greeted_is_none() {
    let fake = Fake::absent();
    let dying = UnixListener::bind(fake.root().join("run/bangerd.sock")).unwrap();
    let run = replacing_a_dead_one(&fake, move || drop(dying.accept().unwrap()));
    assert_eq!(run.stdout(), "web\n");
    assert!(run.stderr().contains("started bangerd"), "{run}");
}

#[test]
fn what_only_looks_starts_nothing() {
    let fake = Fake::absent();
    let run = |arguments: &[&str]| Run::of(&mut with_program(&fake, arguments));
    run(&["daemon", "status"]).fails(122, "does not run");
    assert_eq!(
        run(&["daemon", "status", "--json"]).last_json()["error"]["kind"],
        "daemon_unavailable"
    );
    let version = run(&["version"]).ok();
    assert!(
        version.stdout().contains("bangerd  not running"),
        "{version}"
    );
    run(&["daemon", "stop"]).ok();
    run(&["vm", "run", "--help"]).ok();
    run(&["completion", "bash"]).ok();
    let offered = complete(&mut with_program(&fake, &[]), &["vm", "exec", ""]);
    assert_eq!(offered, [""; 0]);
    assert!(!started(fake.root()));
}

fn older(root: &Path) -> DaemonInfo {
    let mut info = samples::daemon(root);
    info.build.version = "0.0.1".into();
    info
}

#[test]
fn an_older_one_which_a_client_started_is_replaced() {
    let fake = Fake::absent();
    fake.serve(older(fake.root()), route);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            until_started(fake.root());
            fake.serve(samples::daemon(fake.root()), route);
        });
        Run::of(&mut with_program(&fake, &["ps", "-q"]))
    })
    .ok();
    assert_eq!(run.stdout(), "web\n");
    assert!(run.stderr().contains("replacing it, VMs go on"), "{run}");
    assert!(fake.lines().contains(&"POST /v1/daemon/stop".to_owned()));
    assert_eq!(fake.banger(&["ps", "-q"]).ok().stderr(), "");
}

#[test]
fn an_older_one_of_somebody_else_is_only_told_about() {
    let fake = Fake::absent();
    let mut info = older(fake.root());
    info.started_by_client = false;
    fake.serve(info, route);
    let run = Run::of(&mut with_program(&fake, &["ps", "-q"])).ok();
    assert_eq!(run.stdout(), "web\n");
    let said = run.stderr();
    assert!(
        said.contains("0.0.1") && said.contains("hint: restart it with"),
        "{said}"
    );
    assert!(!started(fake.root()));
}

#[test]
fn an_older_one_at_work_is_left_to_it() {
    let fake = Fake::absent();
    fake.serve(older(fake.root()), |request| {
        match request.line().as_str() {
            "GET /v1/operations" => Answer::ok(&OperationList {
                operations: vec![samples::operation(
                    OperationKind::ImagePull,
                    OperationState::Running,
                )],
            }),
            _ => route(request),
        }
    });
    let run = Run::of(&mut with_program(&fake, &["ps", "-q"])).ok();
    assert!(run.stderr().contains("once it has no work"), "{run}");
    assert!(!started(fake.root()));
}

#[test]
fn a_newer_one_is_used_as_it_is() {
    let fake = Fake::absent();
    let mut info = samples::daemon(fake.root());
    info.build.version = "99.0.0".into();
    info.build.built_at = "2099-01-01T00:00:00Z".into();
    fake.serve(info, route);
    let run = Run::of(&mut with_program(&fake, &["ps", "-q"])).ok();
    assert_eq!(run.stderr(), "");
    assert!(!started(fake.root()));
}

#[test]
fn status_and_version_name_every_build() {
    let fake = Fake::absent();
    let mut info = samples::daemon(fake.root());
    let build = |name: &str| banger_protocol::build::BuildInfo {
        version: format!("99.0.0-{name}"),
        commit: format!("c0ffee-{name}"),
        built_at: "2099-01-01T00:00:00Z".into(),
    };
    (info.build, info.agent) = (build("daemon"), build("agent"));
    fake.serve(info, route);
    let own = banger_protocol::build::this_build().version;
    for arguments in [&["version"][..], &["daemon", "status"]] {
        let text = fake.banger(arguments).ok().stdout();
        for said in [
            "99.0.0-daemon",
            "c0ffee-daemon",
            "c0ffee-agent",
            "2099-01-01",
            &own,
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
    let status = fake.banger(&["daemon", "status"]).ok().stdout();
    let root = fake.root().display();
    for said in [
        "1073741824".to_owned(),
        format!("{root}/run/bangerd.sock"),
        format!("{root}/state/bangerd.log"),
        format!("root      {root}"),
        format!("{root}/config.toml"),
    ] {
        assert!(status.contains(&said), "{said}: {status}");
    }
    let version = fake.banger(&["version", "--json"]).ok().json();
    assert_eq!(version["client"]["version"], own);
    assert_eq!(version["daemon"]["commit"], "c0ffee-daemon");
    assert_eq!(version["agent"]["commit"], "c0ffee-agent");
}

#[test]
fn a_daemon_that_does_not_start_says_why() {
    let fake = Fake::absent();
    let bangerd = fake.root().join("bangerd");
    let script = "#!/bin/sh\necho 'bangerd: unknown key foo in config.toml' >&2\n\
                  echo 'hint: see docs/configuration.md for the keys' >&2\nexit 124\n";
    fs::write(&bangerd, script).unwrap();
    fs::set_permissions(&bangerd, fs::Permissions::from_mode(0o755)).unwrap();
    let run = Run::of(fake.command(&["vm", "list"]).env("BANGERD", &bangerd));
    assert_eq!(run.code(), 124, "{run}");
    assert_eq!(
        run.stderr(),
        "banger: bangerd does not start: unknown key foo in config.toml\n\
         hint: see docs/configuration.md for the keys\n"
    );
    fake.banger(&["vm", "list"]).fails(115, "BANGERD");
}

#[test]
fn what_listens_may_be_no_bangerd() {
    for (answer, code) in [
        ("", 122),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 123),
    ] {
        let fake = Fake::absent();
        let listener = UnixListener::bind(fake.root().join("run/bangerd.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
                let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
        fake.banger(&["vm", "list"]).fails(code, "bangerd");
    }
}

#[test]
fn a_socket_of_another_user_gets_no_request() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root");
        return;
    }
    let fake = Fake::absent();
    let run = fake.root().join("run");
    for directory in [fake.root(), &run] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            // SAFETY: the bare system call changes the credentials of this thread alone, which
            // ends after it has bound the socket.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, 12345, -1) };
            assert_eq!(changed, 0);
            UnixListener::bind(run.join("bangerd.sock")).unwrap()
        });
        let _listener = bound.join().unwrap();
        fake.banger(&["vm", "list"]).fails(106, "user 12345");
    });
}

#[test]
fn a_request_that_is_hung_up_on_is_a_failure() {
    let fake = Fake::new(|_| Answer::HangUp);
    fake.banger(&["vm", "list"]).fails(122, "daemon status");
    let fake = Fake::new(|_| Answer::Json(500, b"no JSON".to_vec()));
    fake.banger(&["vm", "list"]).fails(125, "no reason");
    let fake = Fake::new(|_| Answer::error(&ApiError::new(ErrorKind::VersionMismatch, "too old")));
    fake.banger(&["vm", "list"]).fails(123, "too old");
}

/// What the shell is offered behind these words.
fn complete(command: &mut std::process::Command, words: &[&str]) -> Vec<String> {
    command
        .env("BANGER_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .args(["--", "banger"])
        .args(words);
    let offered = Run::of(command).ok().stdout();
    offered
        .split('\n')
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn completion_knows_names_and_starts_nothing() {
    let fake = Fake::new(route);
    for (words, expected) in [
        (&["vm", "exec", ""][..], &["web", "db"][..]),
        (&["exec", "we"], &["web"]),
        (&["rm", "web", "d"], &["db"]),
        (&["vm", "run", ""], &["webby"]),
        (&["run", "--image", "w"], &["webby"]),
        (&["rmi", ""], &["webby"]),
        (&["inspect", "w"], &["web", "webby"]),
        (&["run", "--kernel", ""], &["six"]),
        (&["kernel", "rm", "s"], &["six"]),
        (&["kernel", "pull", ""], &["seven"]),
        (&["vm", "wait", "--for", "st"], &["stopped"]),
        (&["ver"], &["version"]),
    ] {
        let offered = complete(&mut fake.command(&[]), words);
        assert_eq!(offered, expected, "{words:?}");
    }
}
