//! What a VM and the daemon take of the host.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, report};
use crate::tools::Result;

const MIB: f64 = 1024.0 * 1024.0;

pub fn what_a_vm_adds(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    let used = |vm: &Value| vm["disk_used_bytes"].as_f64().unwrap_or_default() / MIB;
    let fresh = banger.json(&[
        "--json",
        "vm",
        "create",
        "--no-start",
        "--name",
        "bench-disk",
        "debian-12",
    ])?;
    report(
        "disk of a VM before boot",
        used(&fresh),
        "MiB",
        "<= 1",
        Value::Null,
    );
    banger.run(&["vm", "start", "bench-disk"])?;
    thread::sleep(Duration::from_secs(60));
    let booted = banger.json(&["--json", "vm", "show", "bench-disk"])?;
    let init = booted["init"].clone();
    report(
        "disk of a VM 60 s after boot",
        used(&booted),
        "MiB",
        "<= 3",
        json!({ "init": init }),
    );
    banger.run(&["vm", "delete", "bench-disk"])?;

    banger.run(&["daemon", "stop"])?;
    banger.run(&["daemon", "start"])?;
    let status = banger.json(&["--json", "daemon", "status"])?;
    thread::sleep(Duration::from_secs(3));
    let pid = status["pid"].as_i64().unwrap_or_default();
    report(
        "bangerd idle, resident",
        resident_mib(pid)?,
        "MiB",
        "<= 20",
        Value::Null,
    );
    let agent = bench.dist.join("lib/banger/banger-agent");
    let size = std::fs::metadata(&agent)
        .map_err(|error| format!("{}: {error}", agent.display()))?
        .len();
    report(
        "agent binary",
        size as f64 / MIB,
        "MiB",
        "<= 2.5",
        Value::Null,
    );
    Ok(())
}

fn resident_mib(pid: i64) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| {
            line.trim()
                .trim_end_matches(" kB")
                .trim()
                .parse::<f64>()
                .ok()
        })
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| format!("{path} has no VmRSS"))
}
