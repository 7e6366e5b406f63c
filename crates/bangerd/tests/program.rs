//! `bangerd` as a program: what it starts from, what it refuses, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use banger_protocol::error::ErrorKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory with all of one banger.
struct Root(tempfile::TempDir);

/// A daemon that is killed with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Root {
    fn new() -> Root {
        Root(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run/bangerd.sock")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("BANGER_ROOT", self.0.path())
            .env("BANGER_AGENT", self.path("no-agent"))
            .env_remove("BANGER_LOG_LEVEL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn bangerd(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_bangerd"))
    }

    /// Waits until the daemon serves.
    fn serves(&self, mut command: Command) -> Running {
        let mut running = Running(command.stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "no socket in time");
            assert_eq!(running.0.try_wait().unwrap(), None, "it ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Runs a daemon that does not start, and returns what it said.
    #[track_caller]
    fn refuses(&self, kind: ErrorKind) -> String {
        self.refused(self.bangerd(), kind)
    }

    #[track_caller]
    fn refused(&self, mut command: Command, kind: ErrorKind) -> String {
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(i32::from(kind.exit_code())), "{stderr}");
        assert!(stderr.contains("bangerd: "), "{stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
        stderr
    }
}

fn daemon_info(socket: &Path) -> serde_json::Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"GET /v1/daemon HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn it_raises_its_limit_of_files_and_ends_in_order() {
    let root = Root::new();
    let mut shell = root.command("/bin/sh");
    shell.args([
        "-c",
        "ulimit -S -n 200 && exec \"$0\"",
        env!("CARGO_BIN_EXE_bangerd"),
    ]);
    let mut running = root.serves(shell);
    let pid = running.0.id();
    assert_eq!(daemon_info(&root.socket())["pid"], pid);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files: Vec<&str> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(files[0], files[1], "soft and hard");
    assert_ne!(files[0], "200");

    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert!(!root.socket().exists());
}

#[test]
fn a_second_one_is_refused_and_a_killed_ones_socket_replaced() {
    let root = Root::new();
    let mut first = root.serves(root.bangerd());
    let pid = first.0.id().to_string();
    let said = root.refuses(ErrorKind::DaemonUnavailable);
    assert!(said.contains(&pid), "{said}");
    assert_eq!(daemon_info(&root.socket())["pid"].to_string(), pid);
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(root.socket().exists());
    let second = root.serves(root.bangerd());
    assert_eq!(daemon_info(&root.socket())["pid"], second.0.id());
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let root = Root::new();
    fs::create_dir(root.path("run")).unwrap();
    let theirs = UnixListener::bind(root.socket()).unwrap();
    let said = root.refuses(ErrorKind::DaemonUnavailable);
    assert!(said.contains("bangerd.sock is in use"), "{said}");
    drop(theirs);
    root.serves(root.bangerd());
}

#[test]
fn what_the_go_program_left_is_named_and_left_alone() {
    let root = Root::new();
    let config = root.path("config.toml");
    let theirs = "bridge_name = \"br-fc\"\n[vm_defaults]\nvcpu = 2\n";
    fs::write(&config, theirs).unwrap();
    let said = root.refuses(ErrorKind::BadConfig);
    assert!(
        said.contains("config.toml belongs to the banger written in Go"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&config).unwrap(), theirs);
    assert!(!root.path("state").exists(), "nothing was made beside it");
    fs::remove_file(config).unwrap();

    let store = root.path("state/state.db");
    fs::create_dir(root.path("state")).unwrap();
    let tables = "CREATE TABLE images (id TEXT); CREATE TABLE vms (id TEXT, runtime_json TEXT);";
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute_batch(tables)
        .unwrap();
    let before = fs::read(&store).unwrap();
    let said = root.refuses(ErrorKind::BadConfig);
    assert!(
        said.contains("state.db was left by the Go version"),
        "{said}"
    );
    assert!(fs::read(&store).unwrap() == before);
}

#[test]
fn a_store_of_a_newer_one_is_refused_and_not_changed() {
    let root = Root::new();
    drop(root.serves(root.bangerd()));
    let store = root.path("state/state.db");
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute_batch("PRAGMA user_version = 1000")
        .unwrap();
    let before = fs::read(&store).unwrap();
    let said = root.refuses(ErrorKind::VersionMismatch);
    assert!(said.contains("version 1000"), "{said}");
    assert!(fs::read(&store).unwrap() == before);
}

#[test]
fn bad_words_are_told_with_the_code_of_their_kind() {
    let root = Root::new();
    let output = root.bangerd().arg("--frobnicate").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--frobnicate"));

    fs::write(root.path("config.toml"), "log_levle = \"info\"\n").unwrap();
    let said = root.refuses(ErrorKind::BadConfig);
    assert!(said.contains("unknown key log_levle"), "{said}");
    assert!(said.contains("log_level?"), "{said}");
    fs::remove_file(root.path("config.toml")).unwrap();

    let mut command = root.bangerd();
    command.env("BANGER_LOG_LEVEL", "loud");
    let said = root.refused(command, ErrorKind::BadConfig);
    assert!(said.contains("BANGER_LOG_LEVEL: \"loud\""), "{said}");
}
