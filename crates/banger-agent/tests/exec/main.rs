//! Exec and main over a real link, on this host: no machine is needed for them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod terminal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_agent::agent::{Agent, Machine};
use banger_agent::reaper::Reaper;
use banger_agent::serve::serve_stream;
use banger_protocol::agent::*;
use banger_protocol::build::this_build;
use banger_protocol::bytes::ByteString;
use banger_protocol::exec::{
    Channel, Decoder, Direction, ExitStatus, Frame, ReceiveCredit, SendCredit, StartFailureKind,
};
use banger_protocol::link::{HostOptions, Identity, Link, LinkStream, serve};
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// This host, which is booted already.
struct Booted;

impl Machine for Booted {
    fn boot(&mut self, config: &BootConfig) -> Result<BootReport, AgentError> {
        if config.hostname == "broken" {
            return Err(AgentError::new(AgentErrorKind::BootFailed, "no disk"));
        }
        Ok(BootReport {
            phases: Vec::new(),
            init: None,
            kernel: "test".to_owned(),
            build: this_build(),
            warnings: Vec::new(),
        })
    }
}

struct Host {
    agent: Arc<Agent>,
    link: Link,
}

const IDENTITY: Identity = Identity { boot_id: [1; 16] };

async fn connect(agent: &Arc<Agent>) -> Link {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = Arc::clone(agent);
    tokio::spawn(serve(theirs, IDENTITY, move |incoming| {
        tokio::spawn(serve_stream(Arc::clone(&agent), incoming));
    }));
    Link::connect(ours, HostOptions::fresh()).await.unwrap().0
}

fn boot_config(hostname: &str) -> BootConfig {
    BootConfig {
        hostname: hostname.to_owned(),
        disks: Disks {
            base: String::new(),
            base_digest: String::new(),
            upper: String::new(),
        },
        init: Init::Agent,
        machine_id: None,
        realtime_ns: None,
        entropy: ByteString::default(),
        volumes: Vec::new(),
        resolv_conf: Vec::new(),
        main: None,
        end_by_reset: false,
    }
}

async fn waiting() -> Host {
    let reaper = Arc::new(Reaper::new(false));
    let (agent, downs) = Agent::new(Box::new(Booted), Arc::clone(&reaper));
    tokio::spawn(reaper.run());
    // Nobody here ends the machine.
    std::mem::forget(downs);
    let link = connect(&agent).await;
    Host { agent, link }
}

async fn booted() -> Host {
    let host = waiting().await;
    let boot = OpenRequest::Boot(Box::new(boot_config("test")));
    let _: (BootReport, _) = ask(&host.link, &boot).await.unwrap();
    host
}

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
        ..ProcessSpec::default()
    }
}

/// A client of one process: keeps to the credit, and takes what it is told to.
struct Client {
    stream: LinkStream,
    decoder: Decoder,
    credit: [ReceiveCredit; 2],
    stdin: SendCredit,
    /// Credit that is not given back.
    withhold: Option<Channel>,
    exec: u64,
    pid: u32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Only count stdout.
    count_only: bool,
    counted: u64,
    lost: u64,
}

impl Client {
    fn new(stream: LinkStream) -> Self {
        Client {
            stream,
            decoder: Decoder::new(Direction::GuestToClient),
            credit: [ReceiveCredit::default(); 2],
            stdin: SendCredit::default(),
            withhold: None,
            exec: 0,
            pid: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            count_only: false,
            counted: 0,
            lost: 0,
        }
    }

    async fn exec(host: &Host, spec: ProcessSpec) -> Client {
        let (_, stream): (ExecStarted, _) =
            ask(&host.link, &OpenRequest::Exec(spec)).await.unwrap();
        Client::new(stream)
    }

    async fn attach(link: &Link, exec: u64) -> Client {
        let request = OpenRequest::ExecAttach { exec };
        let (_, stream): (ExecStarted, _) = ask(link, &request).await.unwrap();
        Client::new(stream)
    }

    async fn send(&mut self, frame: Frame) {
        self.stream.write_all(&frame.to_bytes()).await.unwrap();
    }

    /// Handles frames until one that `stop` likes, or the exit status.
    async fn until(&mut self, stop: impl Fn(&Client) -> bool) -> Option<ExitStatus> {
        let work = async {
            loop {
                if stop(self) {
                    return None;
                }
                match self.decoder.next_frame().unwrap() {
                    Some(Frame::Exit(status)) => return Some(status),
                    Some(frame) => self.take(frame).await,
                    None => {
                        let chunk = self.stream.read_chunk().await.unwrap();
                        self.decoder
                            .push(chunk.expect("an exit status before the end"));
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .expect("within a minute")
    }

    async fn take(&mut self, frame: Frame) {
        let (channel, bytes) = match frame {
            Frame::Started { exec, pid } => {
                (self.exec, self.pid) = (exec, pid);
                return;
            }
            Frame::StdinCredit(bytes) => return self.stdin.add(bytes).unwrap(),
            Frame::Lost { bytes, .. } => {
                self.lost += bytes;
                return;
            }
            Frame::Stdout(bytes) => (Channel::Stdout, bytes),
            Frame::Stderr(bytes) => (Channel::Stderr, bytes),
            other => panic!("{other:?}"),
        };
        let credit = &mut self.credit[channel as usize - 1];
        credit
            .receive(bytes.len())
            .expect("the agent keeps to its credit");
        match channel {
            Channel::Stdout if self.count_only => self.counted += bytes.len() as u64,
            Channel::Stdout => self.stdout.extend_from_slice(&bytes),
            Channel::Stderr => self.stderr.extend_from_slice(&bytes),
        }
        if self.withhold != Some(channel)
            && let Some(bytes) = credit.consume(bytes.len())
        {
            self.send(Frame::Credit { channel, bytes }).await;
        }
    }

    async fn exit(&mut self) -> ExitStatus {
        self.until(|_| false).await.expect("an exit status")
    }

    async fn started(&mut self) {
        self.until(|client| client.pid != 0).await;
    }

    /// Sends all of stdin, within the credit, and its end.
    async fn feed(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            if self.stdin.available() == 0 {
                self.until(|client| client.stdin.available() > 0).await;
            }
            let count = data.len().min(self.stdin.available()).min(32_000);
            self.stdin.spend(count);
            let part = data.split_to(count);
            self.send(Frame::Stdin(part)).await;
        }
        self.send(Frame::StdinEof).await;
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

async fn run(host: &Host, spec: ProcessSpec) -> (ExitStatus, Client) {
    let mut client = Client::exec(host, spec).await;
    let status = client.exit().await;
    (status, client)
}

#[tokio::test]
async fn statuses_are_exact() {
    let host = booted().await;
    let cases = [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 3", ExitStatus::Code(3)),
        ("exit 255", ExitStatus::Code(255)),
        ("kill -9 $$", ExitStatus::Signal(9)),
        ("kill -15 $$", ExitStatus::Signal(15)),
    ];
    for (script, expected) in cases {
        let (status, _) = run(&host, shell(script)).await;
        assert_eq!(status, expected, "{script}");
    }
    assert!(host.agent.execs.list().iter().all(|entry| entry.attached));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let host = booted().await;
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let spec = |argv: &[&str]| ProcessSpec {
        argv: argv.iter().map(|text| (*text).into()).collect(),
        ..ProcessSpec::default()
    };
    let with = |change: fn(&mut ProcessSpec)| {
        let mut spec = spec(&["true"]);
        change(&mut spec);
        spec
    };
    use StartFailureKind as Kind;
    let cases = [
        (spec(&["no-such-program-here"]), Kind::NotFound),
        (spec(&["/no/such/program"]), Kind::NotFound),
        (spec(&[""]), Kind::NotFound),
        (spec(&[&plain.to_string_lossy()]), Kind::NotExecutable),
        (spec(&["/"]), Kind::NotExecutable),
        (spec(&["true", "a\0b"]), Kind::BadArguments),
        (spec(&["true", &"x".repeat(200_000)]), Kind::BadArguments),
        (
            with(|spec| spec.env = vec![format!("PATH={}", ":".repeat(200_000)).as_str().into()]),
            Kind::BadArguments,
        ),
        (
            with(|spec| spec.workdir = Some("/no/such".into())),
            Kind::BadWorkdir,
        ),
        (
            with(|spec| spec.workdir = Some("relative".into())),
            Kind::BadWorkdir,
        ),
        (
            with(|spec| spec.user = Some("no-such-user".to_owned())),
            Kind::BadUser,
        ),
    ];
    for (spec, expected) in cases {
        match run(&host, spec).await.0 {
            ExitStatus::Failed(failure) => assert_eq!(failure.kind, expected, "{failure:?}"),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    // Nothing of them is kept.
    assert_eq!(host.agent.execs.list(), []);
}

#[tokio::test]
async fn a_script_without_interpreter_is_the_shells() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = booted().await;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "echo $1 $0\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().display().to_string();
    let spec = ProcessSpec {
        argv: vec!["script".into(), "argument".into()],
        env: vec![format!("PATH=/nowhere:{path}").into()],
        ..ProcessSpec::default()
    };
    let (status, client) = run(&host, spec).await;
    assert_eq!(status, ExitStatus::Code(0));
    assert_eq!(client.text(), format!("argument {path}/script\n"));
}

#[tokio::test]
async fn stdin_ends_and_stdout_and_stderr_are_apart() {
    let host = booted().await;
    let spec = ProcessSpec {
        stdin: true,
        ..shell("cat; echo error >&2")
    };
    let mut client = Client::exec(&host, spec).await;
    client.feed(Bytes::from_static(b"hi\n")).await;
    assert_eq!(client.exit().await, ExitStatus::Code(0));
    assert_eq!(client.text(), "hi\n");
    assert_eq!(client.stderr, b"error\n");
    // Without stdin there is nothing to read.
    let (status, client) = run(&host, shell("cat; wc -c < /dev/stdin")).await;
    assert_eq!((status, client.text().trim()), (ExitStatus::Code(0), "0"));
}

#[tokio::test]
async fn much_stdin_and_much_stdout_at_once() {
    let host = booted().await;
    let spec = ProcessSpec {
        stdin: true,
        ..shell("cat")
    };
    let mut client = Client::exec(&host, spec).await;
    let data: Vec<u8> = (0..5_000_000u32).map(|at| (at / 7) as u8).collect();
    client.feed(Bytes::from(data.clone())).await;
    assert_eq!(client.exit().await, ExitStatus::Code(0));
    assert!(client.stdout == data);
}

#[tokio::test]
async fn stdin_that_nobody_reads_does_not_hold_up_signals() {
    let host = booted().await;
    let spec = ProcessSpec {
        stdin: true,
        ..shell("sleep 600")
    };
    let mut client = Client::exec(&host, spec).await;
    let full = Bytes::from(vec![0; 16_000]);
    while client.stdin.available() > full.len() {
        client.stdin.spend(full.len());
        client.send(Frame::Stdin(full.clone())).await;
    }
    client.send(Frame::Signal(15)).await;
    assert_eq!(client.exit().await, ExitStatus::Signal(15));
}

#[tokio::test]
async fn a_gigabyte_arrives_whole_past_an_unread_stderr_and_an_unread_exec() {
    let host = booted().await;
    // Another exec whose reader is asleep.
    let mut asleep = Client::exec(&host, shell("exec yes")).await;
    asleep.started().await;
    // More on stderr than its credit, which is never given back.
    let script = "yes error | head -c 10000000 >&2 & head -c 1073741824 /dev/zero; kill %1";
    let mut client = Client::exec(&host, shell(script)).await;
    client.withhold = Some(Channel::Stderr);
    client.count_only = true;
    client.until(|client| client.counted == 1 << 30).await;
    assert!(client.stderr.len() <= 256 * 1024);
    client.send(Frame::Hangup).await;
}

#[tokio::test]
async fn signals_go_to_the_whole_group() {
    let host = booted().await;
    let mut client = Client::exec(&host, shell("sleep 600 | sleep 600; echo over")).await;
    client.started().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send(Frame::Signal(2)).await;
    // The shell is of the group too.
    assert_eq!(client.exit().await, ExitStatus::Signal(2));
    // Numbers that are no signals hurt nobody.
    let mut client = Client::exec(&host, shell("sleep 0.2")).await;
    client.send(Frame::Signal(0)).await;
    client.send(Frame::Signal(u32::MAX)).await;
    assert_eq!(client.exit().await, ExitStatus::Code(0));
}

#[tokio::test]
async fn a_hang_up_ends_what_was_run() {
    let host = booted().await;
    // One that goes at SIGHUP, and one that does not.
    for (script, least) in [("sleep 600", 0), ("trap '' HUP; sleep 600 & wait; wait", 4)] {
        let mut client = Client::exec(&host, shell(script)).await;
        client.started().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let group = client.pid;
        let start = Instant::now();
        client.send(Frame::Hangup).await;
        while group_lives(group) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{script} lives on"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(start.elapsed() >= Duration::from_secs(least), "{script}");
        assert_eq!(host.agent.execs.list(), []);
    }
}

fn group_lives(leader: u32) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned());
            let fields = fields.unwrap_or_default();
            let mut fields = fields.split_ascii_whitespace();
            let state = fields.next();
            fields.nth(1) == Some(&leader.to_string()) && state != Some("Z")
        })
    })
}

#[tokio::test]
async fn a_lost_link_ends_nothing_and_the_process_is_joined_again() {
    let host = booted().await;
    let spec = ProcessSpec {
        stdin: true,
        ..shell(
            "read line; i=0; while [ $i -lt 3000 ]; do echo $line $i; i=$((i+1)); done; read line; exit 9",
        )
    };
    let mut client = Client::exec(&host, spec).await;
    client
        .send(Frame::Stdin(Bytes::from_static(b"one\n")))
        .await;
    client.until(|client| client.text().contains("one 5")).await;
    let exec = client.exec;
    drop(client);
    host.link.close();
    let link = connect(&host.agent).await;
    let (list, _): (ExecList, _) = ask(&link, &OpenRequest::ExecList).await.unwrap();
    assert_eq!(list.execs.len(), 1);
    assert_eq!((list.execs[0].exec, list.execs[0].exited), (exec, false));
    let mut client = Client::attach(&link, exec).await;
    client
        .send(Frame::Stdin(Bytes::from_static(b"two\n")))
        .await;
    assert_eq!(client.exit().await, ExitStatus::Code(9));
    // Either it came, or it is said to be lost.
    assert!(client.text().ends_with("one 2999\n") || client.lost > 0);
    drop(client);
    let gone = async {
        while !host.agent.execs.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
    let again = ask::<ExecStarted>(&link, &OpenRequest::ExecAttach { exec }).await;
    assert!(matches!(again, Err(AskError::Agent(error)) if error.kind == AgentErrorKind::NotFound));
}

#[tokio::test]
async fn what_nobody_reads_is_bounded_and_counted() {
    let host = booted().await;
    let script = "echo off; sleep 0.3; head -c 5000000 /dev/zero | tr '\\0' x; echo end; exit 4";
    let mut client = Client::exec(&host, shell(script)).await;
    client.until(|client| client.text() == "off\n").await;
    let exec = client.exec;
    // What was sent and not confirmed counts as lost: it may not have arrived.
    drop(client);
    let ended = async {
        loop {
            let list = host.agent.execs.list();
            if list.iter().any(|entry| entry.exited) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    let mut client = Client::attach(&host.link, exec).await;
    assert_eq!(client.exit().await, ExitStatus::Code(4));
    assert!(client.text().ends_with("xend\n"));
    assert!(client.stdout.len() <= 1024 * 1024);
    assert_eq!(client.stdout.len() as u64 + client.lost, 5_000_008);
}

#[tokio::test]
async fn a_second_join_takes_the_place_of_the_first() {
    let host = booted().await;
    let mut first = Client::exec(&host, shell("sleep 0.3; echo done")).await;
    first.started().await;
    let mut second = Client::attach(&host.link, first.exec).await;
    assert_eq!(second.exit().await, ExitStatus::Code(0));
    assert_eq!(second.text(), "done\n");
    let error = first.stream.read_chunk().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_does_not_keep_the_client() {
    let host = booted().await;
    let start = Instant::now();
    let (status, client) = run(&host, shell("sleep 3 & echo $!; exit 5")).await;
    assert_eq!(status, ExitStatus::Code(5));
    assert!(start.elapsed() < Duration::from_secs(3));
    // And it lives.
    let pid: u32 = client.text().trim().parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn processes_have_the_user_and_the_directory_they_ask_for() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root");
        return;
    }
    let host = booted().await;
    let directory = tempfile::tempdir().unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let workdir = directory.path().join("made/here");
    let spec = ProcessSpec {
        user: Some("4711:4712".to_owned()),
        workdir: Some(workdir.clone().into_os_string().into()),
        make_workdir: true,
        // Its streams are its own to open again.
        ..shell("id -u; id -g; id -G; pwd; echo again >/dev/stdout; cat /proc/self/oom_score_adj")
    };
    let (status, client) = run(&host, spec).await;
    assert_eq!(status, ExitStatus::Code(0), "{:?}", client.stderr);
    let expected = format!("4711\n4712\n4712\n{}\nagain\n0\n", workdir.display());
    assert_eq!(client.text(), expected);
}

#[tokio::test]
async fn nothing_runs_before_the_machine_is_booted() {
    let host = waiting().await;
    let refused = |error: AskError| match error {
        AskError::Agent(error) => error.kind,
        other => panic!("{other:?}"),
    };
    let exec = ask::<ExecStarted>(&host.link, &OpenRequest::Exec(shell("true"))).await;
    assert_eq!(
        exec.map(drop).map_err(refused),
        Err(AgentErrorKind::WrongState)
    );
    let (health, _): (Health, _) = ask(&host.link, &OpenRequest::Health).await.unwrap();
    assert_eq!((health.state, health.report), (AgentState::Waiting, None));
    // A boot that fails is told, and is the last.
    let boot = OpenRequest::Boot(Box::new(boot_config("broken")));
    for _ in 0..2 {
        let failed = ask::<BootReport>(&host.link, &boot).await;
        assert_eq!(
            failed.map(drop).map_err(refused),
            Err(AgentErrorKind::BootFailed)
        );
    }
    let (health, _): (Health, _) = ask(&host.link, &OpenRequest::Health).await.unwrap();
    assert_eq!(health.state, AgentState::Failed);
    // What is no request is refused.
    for bytes in [&b""[..], b"{}", b"\xff", br#"{"request":"later"}"#] {
        let mut stream = host.link.open(bytes).await.unwrap();
        let answer = read_reply::<Nothing>(&mut stream).await;
        assert_eq!(answer.map_err(refused), Err(AgentErrorKind::InvalidRequest));
    }
}

async fn main_status(host: &Host) -> MainStatus {
    ask(&host.link, &OpenRequest::MainStatus).await.unwrap().0
}

#[tokio::test]
async fn main_runs_once_and_its_output_is_kept() {
    let host = booted().await;
    assert_eq!(main_status(&host).await.state, MainState::Waiting);
    let (_, mut events): (Nothing, _) = ask(&host.link, &OpenRequest::Events).await.unwrap();
    let start = |script: &str, attach| {
        OpenRequest::MainStart(MainStart {
            process: shell(script),
            attach,
        })
    };
    let script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; printf three; exit 6";
    let (status, stream): (MainStatus, _) = ask(&host.link, &start(script, true)).await.unwrap();
    assert!(matches!(status.state, MainState::Running { .. }));
    // Only one at a time.
    let again = ask::<MainStatus>(&host.link, &start("true", false)).await;
    assert!(
        matches!(again, Err(AskError::Agent(error)) if error.kind == AgentErrorKind::WrongState)
    );
    // A client that leaves ends nothing.
    drop(stream);
    let follow = OpenRequest::MainLog(MainLog {
        follow: true,
        ..MainLog::default()
    });
    let (_, stream): (MainStatus, _) = ask(&host.link, &follow).await.unwrap();
    let (stdout, stderr) = log(stream).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("one\nthree", "two\n"));
    let status = main_status(&host).await;
    let exited = MainState::Exited {
        status: ExitStatus::Code(6),
    };
    assert_eq!((status.state, status.written), (exited, 13));
    // Events: waiting, running, exited.
    for expected in ["waiting", "running", "exited"] {
        let line = events.read_line(4096).await.unwrap().unwrap();
        assert!(
            String::from_utf8_lossy(&line).contains(&format!("\"state\":\"{expected}\"")),
            "{line:?}"
        );
    }
    // Later readers get what they ask for.
    let cases = [
        (None, Some(1), ("three", "")),
        (None, Some(2), ("three", "two\n")),
        (Some(8), None, ("three", "")),
        (Some(13), None, ("", "")),
        (Some(99), None, ("", "")),
    ];
    for (from, tail, expected) in cases {
        let request = OpenRequest::MainLog(MainLog {
            follow: true,
            tail,
            from,
        });
        let (_, stream): (MainStatus, _) = ask(&host.link, &request).await.unwrap();
        let (stdout, stderr) = log(stream).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), expected);
    }
    // And who joins late gets the status, with or without the output.
    for (replay, expected) in [(false, ""), (true, "one\nthree")] {
        let request = OpenRequest::MainAttach { replay };
        let (_, stream): (MainStatus, _) = ask(&host.link, &request).await.unwrap();
        let mut client = Client::new(stream);
        assert_eq!(client.exit().await, ExitStatus::Code(6));
        assert_eq!(client.text(), expected);
    }
    // It may run again.
    let (_, stream): (MainStatus, _) = ask(&host.link, &start("echo again", true)).await.unwrap();
    let mut client = Client::new(stream);
    assert_eq!(client.exit().await, ExitStatus::Code(0));
    assert_eq!(client.text(), "again\n");
}

/// stdout and stderr of a log stream.
async fn log(mut stream: LinkStream) -> (String, String) {
    let mut decoder = Decoder::new(Direction::GuestToClient);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.read_chunk().await.expect("the log is whole") {
        decoder.push(chunk);
        while let Some(frame) = decoder.next_frame().expect("frames of exec") {
            match frame {
                Frame::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Frame::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr))
}

#[tokio::test]
async fn a_main_that_cannot_be_started_has_exited() {
    let host = booted().await;
    let request = OpenRequest::MainStart(MainStart {
        process: ProcessSpec {
            argv: vec!["no-such-program-here".into()],
            ..ProcessSpec::default()
        },
        attach: true,
    });
    let (_, stream): (MainStatus, _) = ask(&host.link, &request).await.unwrap();
    let status = Client::new(stream).exit().await;
    assert_eq!(status.shell_code(), Some(127));
    assert_eq!(main_status(&host).await.state, MainState::Exited { status });
}

#[tokio::test]
async fn the_guest_can_be_looked_at_and_told_the_end() {
    let host = booted().await;
    let (stats, _): (Stats, _) = ask(&host.link, &OpenRequest::Stats).await.unwrap();
    assert!(stats.memory_total_kib > stats.memory_available_kib);
    assert!(stats.processes > 0 && stats.disk_total_kib > 0);
    let (_, mut events): (Nothing, _) = ask(&host.link, &OpenRequest::Events).await.unwrap();
    let request = OpenRequest::Shutdown(Shutdown {
        how: Down::Reboot,
        grace_ms: 1,
    });
    // The first line is where main is.
    events.read_line(4096).await.unwrap();
    let _: (Nothing, _) = ask(&host.link, &request).await.unwrap();
    let line = events.read_line(4096).await.unwrap().unwrap();
    assert_eq!(line, br#"{"event":"going_down","how":"reboot"}"#[..]);
    let exec = ask::<ExecStarted>(&host.link, &OpenRequest::Exec(shell("true"))).await;
    assert!(matches!(exec, Err(AskError::Agent(_))));
}
