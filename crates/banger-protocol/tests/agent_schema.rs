//! `schema/agent-1.json` is what generation 1 of the agent speaks, to the byte.
//!
//! A VM that was restored carries the agent of its day, so nothing in the file may ever change
//! but by addition. `BANGER_BLESS=1` writes the file anew after one.

use std::fmt::Write as _;
use std::path::Path;

use banger_protocol::agent::*;
use banger_protocol::build::BuildInfo;
use banger_protocol::bytes::ByteString;
use banger_protocol::{exec, link};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Payload of each frame of the link, in order; sizes in bytes, numbers little endian.
fn link_fields(kind: link::Kind) -> Value {
    match kind {
        link::Kind::Pad | link::Kind::Fin | link::Kind::Goodbye => json!([]),
        link::Kind::Hello => json!([
            ["magic", 8],
            ["nonce", 16],
            ["lowest generation", 2],
            ["highest generation", 2],
            ["window", 4]
        ]),
        link::Kind::HelloAck => json!([
            ["magic", 8],
            ["nonce", 16],
            ["generation", 2],
            ["zero", 2],
            ["window", 4],
            ["boot id", 16]
        ]),
        link::Kind::Open => json!([
            ["length of the request", 4],
            ["beginning of the request", "rest"]
        ]),
        link::Kind::Data => json!([["data", "rest"]]),
        link::Kind::Window => json!([["credit", 4]]),
        link::Kind::Reset => json!([["code", 4]]),
    }
}

fn exec_fields(kind: exec::Kind) -> Value {
    match kind {
        exec::Kind::Stdin | exec::Kind::Stdout | exec::Kind::Stderr => json!([["data", "rest"]]),
        exec::Kind::StdinEof | exec::Kind::Hangup => json!([]),
        exec::Kind::Resize => json!([["rows", 2], ["columns", 2]]),
        exec::Kind::Signal => json!([["signal", 4]]),
        exec::Kind::Credit => json!([["channel", 1], ["bytes", 4]]),
        exec::Kind::Started => json!([["exec id", 8], ["process id", 4]]),
        exec::Kind::Exit => json!([["status as JSON", "rest"]]),
        exec::Kind::Lost => json!([["channel", 1], ["bytes", 8]]),
        exec::Kind::StdinCredit => json!([["bytes", 4]]),
    }
}

fn link_examples() -> Vec<link::Frame> {
    use link::{Frame, Hello, HelloAck, ResetCode};
    let nonce = *b"0123456789abcdef";
    vec![
        Frame::Hello(Hello {
            nonce,
            lowest: 1,
            highest: 2,
            window: 0x40000,
        }),
        Frame::HelloAck(HelloAck {
            nonce,
            generation: 1,
            window: 0x10000,
            boot_id: *b"fedcba9876543210",
        }),
        Frame::Open {
            stream: 1,
            total: 5,
            part: Bytes::from_static(b"hel"),
        },
        Frame::Data {
            stream: 0x0102_0304,
            payload: Bytes::from_static(b"lo"),
        },
        Frame::Window {
            stream: 1,
            credit: 0x20000,
        },
        Frame::Fin { stream: 1 },
        Frame::Reset {
            stream: 1,
            code: ResetCode::Dropped,
        },
        Frame::Reset {
            stream: 2,
            code: ResetCode::Refused,
        },
        Frame::Goodbye,
    ]
}

fn exec_examples() -> Vec<exec::Frame> {
    use exec::{Channel, ExitStatus, Frame, StartFailure, StartFailureKind};
    let failed = |kind| Frame::Exit(ExitStatus::Failed(StartFailure::new(kind, "why")));
    vec![
        Frame::Stdin(Bytes::from_static(b"in")),
        Frame::StdinEof,
        Frame::Resize {
            rows: 24,
            columns: 80,
        },
        Frame::Signal(15),
        Frame::Hangup,
        Frame::Credit {
            channel: Channel::Stderr,
            bytes: 0x20000,
        },
        Frame::Started { exec: 3, pid: 260 },
        Frame::Stdout(Bytes::from_static(b"out")),
        Frame::Stderr(Bytes::from_static(b"err")),
        Frame::Exit(ExitStatus::Code(3)),
        Frame::Exit(ExitStatus::Signal(9)),
        failed(StartFailureKind::NotFound),
        failed(StartFailureKind::NotExecutable),
        failed(StartFailureKind::BadWorkdir),
        failed(StartFailureKind::BadUser),
        failed(StartFailureKind::BadArguments),
        failed(StartFailureKind::NoResources),
        Frame::Lost {
            channel: Channel::Stdout,
            bytes: 5_000_000_000,
        },
        Frame::StdinCredit(0x20000),
    ]
}

fn process() -> ProcessSpec {
    ProcessSpec {
        argv: vec!["cat".into(), ByteString(vec![0xff, b'x'])],
        env: vec!["A=b".into()],
        user: Some("www:data".to_owned()),
        workdir: Some("/srv".into()),
        make_workdir: true,
        terminal: Some(Terminal {
            rows: 24,
            columns: 80,
            term: Some("xterm".into()),
        }),
        stdin: true,
    }
}

fn requests() -> Vec<OpenRequest> {
    let boot = |init| BootConfig {
        hostname: "web".to_owned(),
        disks: Disks {
            base: "base".to_owned(),
            base_digest: "sha256:00".to_owned(),
            upper: "upper".to_owned(),
        },
        init,
        machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        realtime_ns: Some(1_700_000_000_000_000_000),
        entropy: ByteString(vec![0xfe, 0xff]),
        volumes: vec!["/data".into()],
        resolv_conf: vec!["nameserver 1.1.1.1".to_owned()],
        main: Some(process()),
        end_by_reset: true,
    };
    vec![
        OpenRequest::Boot(Box::new(boot(Init::Agent))),
        OpenRequest::Boot(Box::new(BootConfig {
            machine_id: None,
            realtime_ns: None,
            entropy: ByteString::default(),
            volumes: Vec::new(),
            resolv_conf: Vec::new(),
            main: None,
            end_by_reset: false,
            ..boot(Init::Image)
        })),
        OpenRequest::Health,
        OpenRequest::Exec(process()),
        OpenRequest::Exec(ProcessSpec::default()),
        OpenRequest::ExecAttach { exec: 3 },
        OpenRequest::ExecList,
        OpenRequest::MainStart(MainStart {
            process: ProcessSpec::default(),
            attach: true,
        }),
        OpenRequest::MainAttach { replay: true },
        OpenRequest::MainStatus,
        OpenRequest::MainLog(MainLog {
            follow: true,
            tail: Some(10),
            from: Some(5),
        }),
        OpenRequest::Time { realtime_ns: 1 },
        OpenRequest::Shutdown(Shutdown {
            how: Down::PowerOff,
            grace_ms: 5000,
        }),
        OpenRequest::Shutdown(Shutdown {
            how: Down::Reboot,
            grace_ms: 0,
        }),
        OpenRequest::Events,
        OpenRequest::Stats,
    ]
}

fn build() -> BuildInfo {
    BuildInfo {
        version: "0.1.0".to_owned(),
        commit: "abc".to_owned(),
        built_at: "2026-11-25T00:00:00Z".to_owned(),
    }
}

fn replies() -> Vec<Value> {
    fn line<T: serde::Serialize>(reply: AgentReply<T>) -> Value {
        let line = reply.to_line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).expect("a reply is JSON")
    }
    let report = BootReport {
        phases: vec![Phase {
            name: "kernel".to_owned(),
            end_us: 900_000,
        }],
        init: Some("/sbin/init".into()),
        kernel: "6.1.0".to_owned(),
        build: build(),
        warnings: vec!["no /etc".to_owned()],
    };
    let status = |state| MainStatus {
        state,
        written: 7,
        attached: false,
    };
    let mut lines = vec![
        line(AgentReply::Ok(report.clone())),
        line(AgentReply::Ok(Nothing {})),
        line(AgentReply::Ok(Health {
            state: AgentState::Ready,
            uptime_ms: 12,
            build: build(),
            report: Some(report),
        })),
        line(AgentReply::Ok(ExecStarted { exec: 3 })),
        line(AgentReply::Ok(ExecList {
            execs: vec![ExecEntry {
                exec: 3,
                pid: 260,
                argv: vec!["cat".into()],
                attached: true,
                exited: false,
            }],
        })),
        line(AgentReply::Ok(status(MainState::Waiting))),
        line(AgentReply::Ok(status(MainState::Running { pid: 9 }))),
        line(AgentReply::Ok(status(MainState::Exited {
            status: exec::ExitStatus::Signal(9),
        }))),
        line(AgentReply::Ok(Stats {
            uptime_ms: 1,
            memory_total_kib: 2,
            memory_available_kib: 3,
            disk_total_kib: 4,
            disk_available_kib: 5,
            load_hundredths: [6, 7, 8],
            processes: 9,
        })),
    ];
    for kind in [
        AgentErrorKind::InvalidRequest,
        AgentErrorKind::NotFound,
        AgentErrorKind::WrongState,
        AgentErrorKind::BootFailed,
        AgentErrorKind::BaseMismatch,
        AgentErrorKind::TooMany,
        AgentErrorKind::System,
    ] {
        lines.push(line::<Nothing>(AgentReply::Error(AgentError::new(
            kind, "why",
        ))));
    }
    for state in [
        AgentState::Waiting,
        AgentState::Failed,
        AgentState::GoingDown,
    ] {
        lines.push(line(AgentReply::Ok(Health {
            state,
            uptime_ms: 0,
            build: build(),
            report: None,
        })));
    }
    lines
}

fn events() -> Vec<AgentEvent> {
    vec![
        AgentEvent::Main {
            status: MainStatus {
                state: MainState::Exited {
                    status: exec::ExitStatus::Code(0),
                },
                written: 0,
                attached: true,
            },
        },
        AgentEvent::GoingDown { how: Down::Reboot },
    ]
}

fn document() -> Value {
    let link_kinds: Vec<_> = link::Kind::ALL
        .into_iter()
        .map(|kind| {
            let (shortest, longest) = kind.lengths();
            json!({
                "number": kind as u8,
                "name": format!("{kind:?}"),
                "host_sends": kind.allowed(link::Direction::HostToAgent),
                "agent_sends": kind.allowed(link::Direction::AgentToHost),
                "on_a_stream": !kind.is_link_wide(),
                "payload_bytes": [shortest, longest],
                "fields": link_fields(kind),
            })
        })
        .collect();
    let exec_kinds: Vec<_> = exec::Kind::ALL
        .into_iter()
        .map(|kind| {
            let (shortest, longest) = kind.lengths();
            json!({
                "number": kind as u8,
                "name": format!("{kind:?}"),
                "from": match kind.direction() {
                    exec::Direction::ClientToGuest => "client",
                    exec::Direction::GuestToClient => "guest",
                },
                "payload_bytes": [shortest, longest],
                "fields": exec_fields(kind),
            })
        })
        .collect();
    let link_examples: Vec<_> = link_examples()
        .iter()
        .map(|frame| {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            json!({ "frame": format!("{frame:?}"), "bytes": hex(&bytes) })
        })
        .collect();
    let exec_examples: Vec<_> = exec_examples()
        .iter()
        .map(|frame| json!({ "frame": format!("{frame:?}"), "bytes": hex(&frame.to_bytes()) }))
        .collect();
    json!({
        "generation": link::GENERATION,
        "port_name": PORT_NAME,
        "vsock_port": VSOCK_PORT,
        "link": {
            "header_bytes": link::HEADER,
            "end_byte": link::END,
            "max_frame_bytes": link::MAX_FRAME,
            "min_window": link::MIN_WINDOW,
            "frame_cost": link::FRAME_COST,
            "max_request_bytes": link::MAX_REQUEST,
            "kinds": link_kinds,
            "examples": link_examples,
        },
        "exec": {
            "header_bytes": exec::HEADER,
            "max_payload_bytes": exec::MAX_PAYLOAD,
            "initial_credit": exec::INITIAL_CREDIT,
            "channels": { "stdout": exec::Channel::Stdout as u8, "stderr": exec::Channel::Stderr as u8 },
            "kinds": exec_kinds,
            "examples": exec_examples,
        },
        "requests": requests(),
        "replies": replies(),
        "events": events(),
    })
}

#[test]
fn the_committed_schema_is_what_the_code_speaks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/agent-1.json");
    let now = document();
    if std::env::var_os("BANGER_BLESS").is_some() {
        std::fs::write(&path, format!("{now:#}\n")).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        now == serde_json::from_str::<Value>(&committed).unwrap(),
        "the guest link changed; agents of running and saved VMs speak {}",
        path.display()
    );
}

#[test]
fn every_kind_has_an_example() {
    for kind in link::Kind::ALL.into_iter().skip(1) {
        let found = link_examples().iter().any(|frame| {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            bytes[0] == kind as u8
        });
        assert!(found, "{kind:?}");
    }
    for kind in exec::Kind::ALL {
        assert!(
            exec_examples().iter().any(|frame| frame.kind() == kind),
            "{kind:?}"
        );
    }
}

#[test]
fn examples_decode_to_what_they_were() {
    for frame in link_examples() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let direction = [link::Direction::HostToAgent, link::Direction::AgentToHost]
            .into_iter()
            .find(|direction| {
                link::Kind::from_number(bytes[0]).is_some_and(|kind| kind.allowed(*direction))
            })
            .unwrap();
        let mut input = BytesMut::from(&bytes[..]);
        assert_eq!(link::decode(direction, &mut input), Ok(Some(frame)));
        assert!(input.is_empty());
    }
    for frame in exec_examples() {
        let mut decoder = exec::Decoder::new(frame.kind().direction());
        decoder.push(Bytes::from(frame.to_bytes()));
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
    }
    for request in requests() {
        let json = serde_json::to_vec(&request).unwrap();
        assert_eq!(
            serde_json::from_slice::<OpenRequest>(&json).unwrap(),
            request
        );
    }
    for event in events() {
        let json = serde_json::to_vec(&event).unwrap();
        assert_eq!(serde_json::from_slice::<AgentEvent>(&json).unwrap(), event);
    }
}

#[test]
fn what_later_generations_add_is_ignored() {
    let request = r#"{"request":"exec","argv":["x"],"later":{"a":1}}"#;
    let OpenRequest::Exec(process) = serde_json::from_str(request).unwrap() else {
        panic!("not an exec");
    };
    assert_eq!(process.argv, [ByteString::from("x")]);
    let event: AgentEvent = serde_json::from_str(r#"{"event":"later","x":1}"#).unwrap();
    assert_eq!(event, AgentEvent::Other);
    let error: AgentError = serde_json::from_str(r#"{"kind":"later","message":"m"}"#).unwrap();
    assert_eq!(error.kind, AgentErrorKind::Other);
    // Hellos may grow at their end.
    let mut bytes = Vec::new();
    link_examples()[0].encode(&mut bytes);
    let end = bytes.pop().unwrap();
    bytes.extend_from_slice(&[1, 2, 3, end]);
    bytes[1] += 3;
    let mut input = BytesMut::from(&bytes[..]);
    assert!(matches!(
        link::decode(link::Direction::HostToAgent, &mut input),
        Ok(Some(link::Frame::Hello(_)))
    ));
}
