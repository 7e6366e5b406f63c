use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::*;

fn sh(script: &str) -> Program {
    Program::new("sh").arg("-c").arg(script)
}

fn gone(pid: &str) -> bool {
    // A killed orphan stays a zombie until its new parent reaps it.
    match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}

async fn wait_until_gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !gone(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn collects_both_outputs_and_feeds_stdin() {
    let output = sh("cat; echo talk >&2; printf %s \"$LC_ALL$FOO$GONE\"")
        .env("FOO", "-foo")
        .env_remove("GONE")
        .stdin_bytes("data ")
        .run()
        .await
        .unwrap();
    assert_eq!(output.text(), "data C.UTF-8-foo");
    assert_eq!(output.stderr, "talk");
    assert_eq!(output.code, 0);
}

#[tokio::test]
async fn large_input_and_output_do_not_block_each_other() {
    let bytes = vec![b'x'; 4 << 20];
    let output = Program::new("cat")
        .stdin_bytes(bytes.clone())
        .run()
        .await
        .unwrap();
    assert_eq!(output.stdout, bytes);
}

#[tokio::test]
async fn stdin_file_is_read() {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"from a file").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = Program::new("cat").stdin_file(file).run().await.unwrap();
    assert_eq!(output.text(), "from a file");
}

#[tokio::test]
async fn errors_name_the_command_the_status_and_the_last_words() {
    let cases = [
        (
            sh("echo 'it broke' >&2; exit 3"),
            "`sh -c 'echo '\\''it broke'\\'' >&2; exit 3'` failed with exit status 3: it broke",
        ),
        (
            sh("kill -TERM $$"),
            "`sh -c 'kill -TERM $$'` was killed by SIGTERM",
        ),
        (
            Program::new("no-such-program"),
            "no-such-program is not installed",
        ),
        (
            Program::new("/no/such/program"),
            "/no/such/program is not installed",
        ),
        (
            Program::new("true").current_dir("/no/such/dir"),
            "cannot start `true`",
        ),
        (
            sh("printf 12345").stdout_limit(4),
            "`sh -c 'printf 12345'` printed more than 4 bytes",
        ),
        (
            Program::new("sleep")
                .arg("60")
                .time_limit(Duration::from_millis(20)),
            "`sleep 60` did not finish within 20ms",
        ),
    ];
    for (program, expected) in cases {
        let error = program.run().await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn other_codes_can_be_accepted() {
    assert_eq!(sh("exit 2").accept(2).run().await.unwrap().code, 2);
    assert_eq!(
        sh("exit 3").accept(2).run().await.unwrap_err().code(),
        Some(3)
    );
    assert_eq!(
        sh("printf 1234")
            .stdout_limit(4)
            .run()
            .await
            .unwrap()
            .text(),
        "1234"
    );
}

#[tokio::test]
async fn dropping_a_run_kills_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    let run = sh("sleep 300 & echo $! > \"$OUT.tmp\"; mv \"$OUT.tmp\" \"$OUT\"; wait")
        .env("OUT", &file)
        .run();
    let task = tokio::spawn(run);
    let pid = loop {
        if let Ok(pid) = std::fs::read_to_string(&file) {
            break pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    task.abort();
    wait_until_gone(&pid).await;
}

#[tokio::test]
async fn a_time_limit_kills_the_grandchildren_that_hold_the_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let error = sh("sleep 300 & echo $! > \"$OUT\"")
        .env("OUT", &file)
        .time_limit(Duration::from_millis(300))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    wait_until_gone(&std::fs::read_to_string(&file).unwrap()).await;
}

#[tokio::test]
async fn a_stream_is_read_and_then_judged() {
    let mut stream = sh("cat; echo oops >&2; exit 4")
        .stdin_bytes("body")
        .stream()
        .unwrap();
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, "body");
    let error = stream.finish().await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("failed with exit status 4: oops"),
        "{error}"
    );

    let mut stream = sh("head -c 3000000 /dev/zero").stream().unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 3_000_000);
    stream.finish().await.unwrap();
}

#[tokio::test]
async fn an_unread_stream_does_not_block_its_end() {
    let stream = sh("yes").stream().unwrap();
    let error = stream.finish().await.unwrap_err();
    assert!(
        error.to_string().contains("SIGPIPE") || error.code().is_some(),
        "{error}"
    );
}

#[tokio::test]
async fn a_stream_obeys_its_time_limit() {
    let mut stream = sh("echo early; sleep 300")
        .time_limit(Duration::from_millis(200))
        .stream()
        .unwrap();
    let mut text = String::new();
    let error = stream.read_to_string(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error = stream.finish().await.unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn dropping_a_stream_kills_the_program() {
    let mut stream = sh("echo $$; sleep 300").stream().unwrap();
    let mut buffer = [0; 64];
    let count = stream.read(&mut buffer).await.unwrap();
    let pid = String::from_utf8_lossy(&buffer[..count]).into_owned();
    drop(stream);
    wait_until_gone(&pid).await;
}

#[test]
fn finds_programs_in_the_path() {
    assert!(is_installed("sh"));
    assert!(is_installed("/bin/sh"));
    assert!(!is_installed("no-such-program"));
    // A directory and a file without the x bit are not programs.
    assert!(!is_installed("/etc"));
    assert!(!is_installed("/etc/passwd"));
}

#[test]
fn long_and_odd_command_lines_stay_readable() {
    let line = Program::new("p")
        .arg("a b\n")
        .arg("")
        .arg("x".repeat(1000))
        .command_line();
    assert!(line.starts_with("p 'a b\\n' '' xxx"), "{line}");
    assert!(line.ends_with('…') && line.len() < 500, "{line}");
}
