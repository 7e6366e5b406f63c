//! The daemon as a process: starting, stopping, sockets, configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use banger_e2e::host::{Host, alive, programs, wait_until};
use banger_e2e::run::Run;

#[test]
fn it_starts_when_needed_and_says_so_once() {
    let host = Host::empty();
    let first = host.banger(&["vm", "list"]).ok();
    assert!(first.stderr.contains("started"), "{first}");
    let second = host.banger(&["vm", "list"]).ok();
    assert_eq!(second.stderr, "");
    let status = host.daemon();
    let socket = status["socket"].as_str().unwrap();
    assert_eq!(fs::metadata(socket).unwrap().mode() & 0o777, 0o600);
    let pid = host.daemon_pid();
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
        Some("/")
    );
    host.banger(&["daemon", "stop"]).ok();
    wait_until("it is gone", || !alive(pid));
    assert!(!fs::exists(socket).unwrap());
}

#[test]
fn many_clients_start_one_daemon() {
    let host = Host::empty();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            host.command(&["--json", "daemon", "status"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut pids: Vec<i64> = Vec::new();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        if output.status.success() {
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            pids.push(status["pid"].as_i64().unwrap_or_default());
        }
    }
    pids.retain(|pid| *pid != 0);
    pids.dedup();
    assert!(pids.len() <= 1, "{pids:?}");
    let lists: Vec<_> = (0..8)
        .map(|_| {
            host.command(&["vm", "list"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut client in lists {
        assert!(client.wait().unwrap().success());
    }
}

#[test]
fn a_second_daemon_on_one_root_is_refused() {
    let host = Host::empty();
    let pid = host.daemon_pid();
    let second = Run::of(
        Command::new(programs().join("bangerd")).env("BANGER_ROOT", host.root()),
        b"",
    );
    second.fails(122, &pid.to_string());
    assert!(alive(pid));
}

#[test]
fn a_stale_socket_is_replaced_and_a_foreign_one_is_not() {
    let host = Host::empty();
    host.daemon_pid();
    host.crash_daemon();
    assert!(fs::exists(host.root().join("run/bangerd.sock")).unwrap());
    host.banger(&["vm", "list"]).ok();
    host.banger(&["daemon", "stop"]).ok();

    let socket = host.root().join("run/bangerd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = Run::of(
        Command::new(programs().join("bangerd")).env("BANGER_ROOT", host.root()),
        b"",
    );
    daemon.fails(122, "bangerd.sock");
    drop(listener);
    fs::remove_file(&socket).unwrap();
}

#[test]
fn configuration_is_strict() {
    let host = Host::with_config("defualt_image = \"x\"\n");
    let run = host.banger(&["vm", "list"]);
    assert!(run.code() == 124 || run.code() == 122, "{run}");
    assert!(
        run.stderr.contains("defualt_image") && run.stderr.contains("default_image"),
        "{run}"
    );
    // What the Go program left is recognised, named and left alone.
    let config = host.root().join("config.toml");
    let theirs = "bridge_name = \"br-fc\"\ntap_pool_size = 4\n";
    fs::write(&config, theirs).unwrap();
    let run = host.banger(&["vm", "list"]);
    assert!(run.stderr.contains("Go"), "{run}");
    assert_eq!(fs::read_to_string(&config).unwrap(), theirs);
    fs::write(&config, "").unwrap();
}

#[test]
fn versions_are_told() {
    let host = Host::empty();
    let version = host.banger(&["--json", "version"]).ok().json();
    assert!(
        version["client"]["version"].is_string() || version["cli"]["version"].is_string(),
        "{version}"
    );
    let status = host.daemon();
    for key in ["pid", "socket", "log", "state_directory", "build", "agent"] {
        assert!(!status[key].is_null(), "{key}: {status}");
    }
}

#[test]
fn help_has_examples_and_groups_print_it() {
    let host = Host::empty();
    for group in ["vm", "image", "kernel", "daemon", "operation"] {
        let help = host.banger(&[group]);
        assert!(
            help.text().contains("Usage") || help.stderr.contains("Usage"),
            "{help}"
        );
    }
    let help = host.banger(&["vm", "run", "--help"]).ok().text();
    for word in ["Examples", "--vcpu", "--memory", "--disk-size", "default"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            host.banger(&["completion", shell])
                .ok()
                .text()
                .contains("banger")
        );
    }
    let pages = host.root().join("man");
    host.banger(&["man", "--out", pages.to_str().unwrap()]).ok();
    assert!(fs::read_dir(&pages).unwrap().count() > 10);
}

#[test]
fn doctor_names_what_it_found() {
    let host = Host::new();
    let report = host.banger(&["--json", "doctor"]);
    let json = report.json();
    assert!(json["checks"].as_array().unwrap().len() >= 5, "{report}");
    assert_eq!(report.code() != 0, json["status"] == "fail", "{report}");
}
