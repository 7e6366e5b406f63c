//! Bytes per second through the guest link, against the raw port with nothing on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::boot::{RawMachine, connect};
use super::{Bench, median, report};
use crate::run::Banger;
use crate::tools::{Result, output, target};

const MIB: usize = 128;
const ROUNDS: usize = 3;

pub fn throughput(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    let raw = raw_guest(banger)?;
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
    let result = measure(banger, &raw);
    banger.run(&["vm", "delete", "bench-link"])?;
    result
}

fn measure(banger: &Banger, raw: &RawMachine) -> Result<()> {
    let size = format!("{MIB}M");
    let (mut up, mut down, mut raw_up, mut raw_down) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        up.push(rate(|| {
            let mut command = banger.command(&[
                "vm",
                "exec",
                "bench-link",
                "--",
                "head",
                "-c",
                &size,
                "/dev/zero",
            ]);
            finish(command.stdin(Stdio::null()).stdout(Stdio::null()))
        })?);
        down.push(rate(|| send(banger))?);
        let (guest_to_host, host_to_guest) = raw_rates(raw)?;
        raw_up.push(guest_to_host);
        raw_down.push(host_to_guest);
    }
    let (up, down) = (median(&mut up), median(&mut down));
    let (raw_up, raw_down) = (median(&mut raw_up), median(&mut raw_down));
    report(
        "guest to host through exec / raw port",
        up / raw_up,
        "ratio",
        ">= 0.8",
        json!({ "exec_mib_s": up, "raw_mib_s": raw_up }),
    );
    report(
        "host to guest through exec / raw port",
        down / raw_down,
        "ratio",
        ">= 0.8",
        json!({ "exec_mib_s": down, "raw_mib_s": raw_down }),
    );
    Ok(())
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

fn send(banger: &Banger) -> Result<()> {
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

/// MiB/s guest to host, then host to guest.
fn raw_rates(raw: &RawMachine) -> Result<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let _running = raw.start()?;
    let failed = |error: std::io::Error| format!("the raw port: {error}");
    runtime.block_on(async {
        let mut port = connect(&raw.agent_socket()).await?;
        // The guest waits for this byte, so that its boot is not measured.
        port.write_all(b"\n").await.map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        port.read_exact(&mut buffer[..1]).await.map_err(failed)?;
        let start = Instant::now();
        let mut left = MIB << 20;
        while left > 0 {
            let most = left.min(buffer.len());
            left -= port.read(&mut buffer[..most]).await.map_err(failed)?;
        }
        let up = MIB as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..MIB * 4 {
            port.write_all(&buffer).await.map_err(failed)?;
        }
        port.read_exact(&mut buffer[..1]).await.map_err(failed)?;
        Ok((up, MIB as f64 / start.elapsed().as_secs_f64()))
    })
}

/// The same machine whose init does nothing but read and write the port.
fn raw_guest(banger: &Banger) -> Result<RawMachine> {
    let status = banger.json(&["--json", "daemon", "status"])?;
    let state = PathBuf::from(
        status["state_directory"]
            .as_str()
            .ok_or("no state directory")?,
    );
    let initramfs = raw_initramfs(&state.join("kernels/debian-6.1-cloud"))?;
    RawMachine::like_ours(banger)?.with(&initramfs, "")
}

fn raw_initramfs(kernel: &Path) -> Result<PathBuf> {
    let tree = target().join("bench-link");
    let failed = |error: std::io::Error| format!("{}: {error}", tree.display());
    let _ = fs::remove_dir_all(&tree);
    for directory in ["bin", "dev", "proc", "sys", "modules"] {
        fs::create_dir_all(tree.join(directory)).map_err(failed)?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))
        .or_else(|_| fs::copy("/usr/bin/busybox", tree.join("bin/busybox")))
        .map_err(failed)?;
    let manifest = fs::read(kernel.join("manifest.json")).map_err(failed)?;
    let manifest: Value =
        serde_json::from_slice(&manifest).map_err(|error| format!("manifest: {error}"))?;
    let mut script =
        "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\nmount -t devtmpfs dev /dev\n"
            .to_owned();
    for (number, module) in manifest["boot_modules"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let module = module.as_str().unwrap_or_default();
        let name = format!("modules/{number}.ko");
        fs::copy(kernel.join("modules").join(module), tree.join(&name)).map_err(failed)?;
        script += &format!("insmod /{name}\n");
    }
    script += &format!(
        "until set -- /dev/vport*p1 && [ -c \"$1\" ]; do usleep 1000; done\nexec 3<>\"$1\"\nread x <&3\nprintf r >&3\ndd if=/dev/zero bs=32k count={blocks} >&3 2>/dev/null\ndd bs=32k count={blocks} iflag=fullblock of=/dev/null <&3 2>/dev/null\nprintf d >&3\nsleep 1000\n",
        blocks = MIB * 32
    );
    let init = tree.join("init");
    fs::write(&init, script).map_err(failed)?;
    let archive = target().join("bench-link.cpio");
    output(
        Command::new("sh")
            .args([
                "-ec",
                "chmod 755 init && find . | cpio --quiet -o -H newc > \"$1\"",
                "sh",
            ])
            .arg(&archive)
            .current_dir(&tree),
    )?;
    Ok(archive)
}
