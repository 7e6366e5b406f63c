//! The host's side by hand: boots the VM behind a virtio-serial socket, runs commands in it, and
//! ends it. For looking at one boot without bangerd.
//!
//! `host SOCKET boot image|agent [COMMAND…]`, `host SOCKET exec COMMAND…`,
//! `host SOCKET terminal COMMAND…`, `host SOCKET send MIB`, `host SOCKET receive MIB`,
//! `host SOCKET ask JSON`, `host SOCKET down poweroff|reboot`, `host SOCKET watch COMMAND…`: events
//! from before the command starts until the link closes.

use std::io::Write as _;
use std::time::Instant;

use banger_protocol::agent::*;
use banger_protocol::bytes::ByteString;
use banger_protocol::exec::{Channel, Decoder, Direction, Frame, ReceiveCredit};
use banger_protocol::link::{FrameBuf, HostOptions, Link, LinkStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, verb, rest @ ..] = &arguments[..] else {
        return Err("usage: host SOCKET VERB …".into());
    };
    let start = Instant::now();
    let io = loop {
        match UnixStream::connect(socket).await {
            Ok(io) => break io,
            // QEMU makes it a moment after it was started.
            Err(_) if start.elapsed().as_secs() < 5 => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let options = if verb == "boot" {
        HostOptions::fresh()
    } else {
        HostOptions::reconnect()
    };
    let (link, _) = Link::connect(io, options).await?;
    eprintln!("hello after {:?}", start.elapsed());
    match (verb.as_str(), rest) {
        ("boot", [init, command @ ..]) => boot(&link, init, command).await?,
        ("exec", command) => exec(&link, command, None).await?,
        ("terminal", command) => {
            let terminal = Terminal {
                rows: 24,
                columns: 80,
                term: None,
            };
            exec(&link, command, Some(terminal)).await?;
        }
        ("receive", [mib]) => {
            // busybox's head and wc go byte by byte.
            let count = format!("count={}", mib.parse::<u64>()? << 5);
            let command = ["dd", "if=/dev/zero", "bs=32k", &count].map(str::to_owned);
            exec(&link, &command, None).await?;
        }
        ("send", [mib]) => send(&link, mib.parse::<u64>()? << 20).await?,
        ("ask", [request]) => {
            let mut stream = link.open(request.as_bytes()).await?;
            while let Some(line) = stream.read_line(REPLY_LIMIT).await? {
                println!("{}", String::from_utf8_lossy(&line));
            }
        }
        ("watch", command) => watch(&link, command).await?,
        ("down", [how]) => {
            let how = if how == "reboot" {
                Down::Reboot
            } else {
                Down::PowerOff
            };
            let request = OpenRequest::Shutdown(Shutdown {
                how,
                grace_ms: 20_000,
            });
            let _: (Nothing, _) = ask(&link, &request).await?;
            let start = Instant::now();
            let reason = link.closed().await;
            eprintln!("down after {:?}: {reason}", start.elapsed());
        }
        _ => return Err("unknown verb".into()),
    }
    Ok(())
}

async fn boot(link: &Link, init: &str, command: &[String]) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let config = BootConfig {
        hostname: "by-hand".to_owned(),
        disks: Disks {
            base: "base".to_owned(),
            base_digest: "sha256:by-hand".to_owned(),
            upper: "upper".to_owned(),
        },
        init: if init == "image" {
            Init::Image
        } else {
            Init::Agent
        },
        machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        realtime_ns: u64::try_from(now.as_nanos()).ok(),
        entropy: ByteString(vec![0xa5; 64]),
        volumes: vec!["/data".into()],
        resolv_conf: Vec::new(),
        main: (!command.is_empty()).then(|| ProcessSpec {
            argv: command.iter().map(|word| word.as_str().into()).collect(),
            ..ProcessSpec::default()
        }),
        end_by_reset: false,
    };
    let start = Instant::now();
    let (report, _): (BootReport, _) = ask(link, &OpenRequest::Boot(Box::new(config))).await?;
    eprintln!("booted after {:?}", start.elapsed());
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

async fn exec(link: &Link, command: &[String], terminal: Option<Terminal>) -> Result<(), Failure> {
    let spec = ProcessSpec {
        argv: command.iter().map(|word| word.as_str().into()).collect(),
        terminal,
        ..ProcessSpec::default()
    };
    let start = Instant::now();
    let (_, stream): (ExecStarted, _) = ask(link, &OpenRequest::Exec(spec)).await?;
    let (count, status) = show(stream).await?;
    let took = start.elapsed();
    let rate = count as f64 / (1 << 20) as f64 / took.as_secs_f64();
    eprintln!("{status} after {took:?}, {count} bytes, {rate:.1} MiB/s");
    Ok(())
}

async fn watch(link: &Link, command: &[String]) -> Result<(), Failure> {
    let (_, mut events): (Nothing, _) = ask(link, &OpenRequest::Events).await?;
    let print = async {
        while let Ok(Some(line)) = events.read_line(REPLY_LIMIT).await {
            print!("{}", String::from_utf8_lossy(&line));
        }
    };
    let (_, result) = tokio::join!(print, exec(link, command, None));
    result
}

async fn show(mut stream: LinkStream) -> Result<(u64, String), Failure> {
    let mut decoder = Decoder::new(Direction::GuestToClient);
    let mut credit = [ReceiveCredit::default(); 2];
    let mut count = 0;
    while let Some(chunk) = stream.read_chunk().await? {
        decoder.push(chunk);
        while let Some(frame) = decoder.next_frame()? {
            let (channel, bytes) = match frame {
                Frame::Stdout(bytes) => (Channel::Stdout, bytes),
                Frame::Stderr(bytes) => (Channel::Stderr, bytes),
                Frame::Exit(status) => return Ok((count, serde_json::to_string(&status)?)),
                other => {
                    eprintln!("{other:?}");
                    continue;
                }
            };
            count += bytes.len() as u64;
            if count < 65_536 {
                std::io::stdout().write_all(&bytes)?;
            }
            if let Some(bytes) = credit[channel as usize - 1].consume(bytes.len()) {
                let frame = Frame::Credit { channel, bytes };
                stream.write_all(&frame.to_bytes()).await?;
            }
        }
    }
    Err("no exit status".into())
}

/// Into `dd`, within the credit of stdin.
async fn send(link: &Link, total: u64) -> Result<(), Failure> {
    use banger_protocol::exec::{HEADER, Kind, MAX_PAYLOAD, SendCredit, header};
    let spec = ProcessSpec {
        argv: vec!["dd".into(), "of=/dev/null".into(), "bs=32k".into()],
        stdin: true,
        ..ProcessSpec::default()
    };
    let (_, stream): (ExecStarted, _) = ask(link, &OpenRequest::Exec(spec)).await?;
    let start = Instant::now();
    let (mut reader, mut writer) = stream.into_split();
    let mut decoder = Decoder::new(Direction::GuestToClient);
    let mut credit = SendCredit::default();
    let mut left = total;
    let block = vec![1; MAX_PAYLOAD];
    loop {
        while left > 0 && credit.available() > 0 {
            let count = credit
                .available()
                .min(MAX_PAYLOAD)
                .min(usize::try_from(left)?);
            credit.spend(count);
            left -= count as u64;
            let mut frame = FrameBuf::with_capacity(HEADER + count);
            frame.append(&header(Kind::Stdin, count));
            frame.append(&block[..count]);
            writer.write_frame(frame).await?;
            if left == 0 {
                writer.write_all(&Frame::StdinEof.to_bytes()).await?;
            }
        }
        let chunk = reader.read_chunk().await?.ok_or("no exit status")?;
        decoder.push(chunk);
        while let Some(frame) = decoder.next_frame()? {
            match frame {
                Frame::StdinCredit(bytes) => credit.add(bytes)?,
                Frame::Stdout(bytes) | Frame::Stderr(bytes) => {
                    std::io::stderr().write_all(&bytes)?;
                }
                Frame::Exit(status) => {
                    let took = start.elapsed();
                    let rate = total as f64 / (1 << 20) as f64 / took.as_secs_f64();
                    eprintln!("{status:?} after {took:?}, {rate:.1} MiB/s");
                    return Ok(());
                }
                other => eprintln!("{other:?}"),
            }
        }
    }
}
