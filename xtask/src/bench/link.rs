//! Bytes per second through the guest link, and through an exec, against a bare virtio-serial port.
//!
//! Link and bare port end in one program (`link_guest` of banger-agent's examples) on one machine;
//! what an exec adds is measured on a machine of banger's, in turns with them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_protocol::link::{FrameBuf, HostOptions, Link, MAX_PAYLOAD};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::boot::{RawMachine, connect};
use super::{Bench, median, report};
use crate::build;
use crate::run::Banger;
use crate::tools::{Result, output, target};

const MIB: usize = 128;
const TOTAL: usize = MIB << 20;
const ROUNDS: usize = 5;

/// Socket of the bare port, beside those of the machine.
const RAW_SOCKET: &str = "raw.sock";

pub fn throughput(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    let machine = bare_machine(banger)?;
    banger.run(&[
        "vm",
        "create",
        "--init",
        "agent",
        "--vcpu",
        "2",
        "--name",
        "bench-link",
        "debian-12",
    ])?;
    let result = measure(banger, &machine);
    banger.run(&["vm", "delete", "bench-link"])?;
    result
}

/// MiB/s of each go, by way.
#[derive(Default)]
struct Rates {
    raw: Vec<f64>,
    link: Vec<f64>,
    exec: Vec<f64>,
}

impl Rates {
    fn report(&mut self, direction: &str) {
        let (raw, link, exec) = (
            median(&mut self.raw),
            median(&mut self.link),
            median(&mut self.exec),
        );
        let rates = json!({ "raw_mib_s": raw, "link_mib_s": link, "exec_mib_s": exec });
        for (way, rate, goal) in [("link", link, ">= 0.8"), ("exec", exec, "none set")] {
            let name = format!("{direction} through {way} / bare port");
            report(&name, rate / raw, "ratio", goal, rates.clone());
        }
    }
}

fn measure(banger: &Banger, machine: &RawMachine) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let (mut up, mut down) = (Rates::default(), Rates::default());
    for _ in 0..ROUNDS {
        // Not at the same time: two translated guests would share the processors.
        up.exec.push(rate(|| receive_by_exec(banger))?);
        down.exec.push(rate(|| send_by_exec(banger))?);
        let _running = machine.start()?;
        runtime.block_on(async {
            let pipe = connect(&machine.file("agent.sock")).await?;
            let (link, _) = Link::connect(pipe, HostOptions::reconnect())
                .await
                .map_err(|error| format!("no hello: {error}"))?;
            let mut raw = connect(&machine.file(RAW_SOCKET)).await?;
            let failed = |error: std::io::Error| format!("the ports: {error}");
            up.raw
                .push(per_second(receive_raw(&mut raw).await.map_err(failed)?));
            up.link.push(per_second(receive(&link).await?));
            down.raw
                .push(per_second(send_raw(&mut raw).await.map_err(failed)?));
            down.link.push(per_second(send(&link).await?));
            Ok::<_, String>(())
        })?;
    }
    up.report("guest to host");
    down.report("host to guest");
    Ok(())
}

fn per_second(took: Duration) -> f64 {
    MIB as f64 / took.as_secs_f64()
}

async fn receive_raw(raw: &mut UnixStream) -> std::io::Result<Duration> {
    let start = Instant::now();
    raw.write_all(format!("{TOTAL}\n").as_bytes()).await?;
    let mut block = vec![0; 64 << 10];
    let mut left = TOTAL;
    while left > 0 {
        let most = left.min(block.len());
        let count = raw.read(&mut block[..most]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= count;
    }
    Ok(start.elapsed())
}

async fn send_raw(raw: &mut UnixStream) -> std::io::Result<Duration> {
    let start = Instant::now();
    raw.write_all(format!("-{TOTAL}\n").as_bytes()).await?;
    let block = vec![1; MAX_PAYLOAD];
    let mut left = TOTAL;
    while left > 0 {
        let most = left.min(block.len());
        left -= raw.write(&block[..most]).await?;
    }
    raw.read_u8().await?;
    Ok(start.elapsed())
}

async fn receive(link: &Link) -> Result<Duration> {
    let failed = |error: std::io::Error| format!("the link: {error}");
    let start = Instant::now();
    let mut stream = link
        .open(TOTAL.to_string().as_bytes())
        .await
        .map_err(|error| format!("the link: {error}"))?;
    while stream.read_chunk().await.map_err(failed)?.is_some() {}
    Ok(start.elapsed())
}

async fn send(link: &Link) -> Result<Duration> {
    let failed = |error: std::io::Error| format!("the link: {error}");
    let start = Instant::now();
    let mut stream = link
        .open(b"0")
        .await
        .map_err(|error| format!("the link: {error}"))?;
    let mut left = TOTAL;
    while left > 0 {
        let count = left.min(MAX_PAYLOAD);
        let mut frame = FrameBuf::with_capacity(count);
        frame.append_with(|bytes| bytes.resize(bytes.len() + count, 1));
        stream.write_frame(frame).await.map_err(failed)?;
        left -= count;
    }
    stream.shutdown().await.map_err(failed)?;
    while stream.read_chunk().await.map_err(failed)?.is_some() {}
    Ok(start.elapsed())
}

fn receive_by_exec(banger: &Banger) -> Result<()> {
    let size = TOTAL.to_string();
    let command = [
        "vm",
        "exec",
        "bench-link",
        "--",
        "head",
        "-c",
        &size,
        "/dev/zero",
    ];
    finish(
        banger
            .command(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )
}

fn rate(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(MIB as f64 / start.elapsed().as_secs_f64())
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| format!("cannot run: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}"))
    }
}

fn send_by_exec(banger: &Banger) -> Result<()> {
    let mut command = banger.command(&[
        "vm",
        "exec",
        "bench-link",
        "--",
        "sh",
        "-c",
        "cat > /dev/null",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run: {error}"))?;
    let chunk = vec![0; 1 << 20];
    if let Some(mut stdin) = child.stdin.take() {
        for _ in 0..MIB {
            stdin
                .write_all(&chunk)
                .map_err(|error| format!("stdin: {error}"))?;
        }
    }
    let status = child.wait().map_err(|error| format!("wait: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}"))
    }
}

/// A machine as banger runs it, with a second, bare port, whose init does nothing but move bytes.
fn bare_machine(banger: &Banger) -> Result<RawMachine> {
    let init = build::agent_example("link_guest")?;
    let machine = RawMachine::like_ours(banger)?;
    let archive = with_init(&machine.file("initramfs"), &init)?;
    machine.with(
        &archive,
        &[
            "-chardev",
            &format!("socket,id=raw,path={RAW_SOCKET},server=on,wait=off"),
            "-device",
            "virtio-serial-pci,id=bare,max_ports=2",
            "-device",
            "virtserialport,bus=bare.0,nr=1,chardev=raw,name=raw",
        ],
    )
}

/// The same initramfs with another /init: of two files of one name the kernel keeps the last.
fn with_init(initramfs: &Path, init: &Path) -> Result<PathBuf> {
    let tree = target().join("bench-link");
    let _ = std::fs::remove_dir_all(&tree);
    let failed = |error: std::io::Error| format!("{}: {error}", tree.display());
    std::fs::create_dir_all(&tree).map_err(failed)?;
    std::fs::copy(init, tree.join("init")).map_err(failed)?;
    let archive = target().join("bench-link.cpio");
    output(
        Command::new("sh")
            .args([
                "-ec",
                "(cat \"$1\"; chmod 755 init; echo init | cpio --quiet -o -H newc) > \"$2\"",
                "sh",
            ])
            .arg(initramfs)
            .arg(&archive)
            .current_dir(&tree),
    )?;
    Ok(archive)
}
