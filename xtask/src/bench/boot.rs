//! Booting: what we add to the VMM's own time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_protocol::link::{HostOptions, Link};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Bench, median, milliseconds, report, timed};
use crate::run::Banger;
use crate::tools::{Result, output, target};

const ROUNDS: usize = 15;
const CREATES: usize = 20;

/// `vm run --rm IMAGE -- true`, whole process, against QEMU alone with the same kernel, initramfs and
/// devices, from its start to the agent's hello.
pub fn run_against_raw_qemu(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    let raw = RawMachine::like_ours(banger)?;
    let run = [
        "vm",
        "run",
        "--rm",
        "--init",
        "agent",
        "debian-12",
        "--",
        "true",
    ];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(|| output(&mut banger.command(&run)))?.0);
        theirs.push(raw.boot()?);
    }
    let (p50, raw_p50) = (median(&mut ours), median(&mut theirs));
    report(
        "vm run --rm -- true / raw QEMU to the agent's hello",
        p50 / raw_p50,
        "ratio",
        "<= 1.15",
        // Sorted: boots fall into a faster and a slower kind, on both sides.
        json!({ "ours_ms": whole(&ours), "raw_ms": whole(&theirs), "of_fastest": ours[0] / theirs[0] }),
    );
    Ok(())
}

fn whole(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.round() as u64).collect()
}

/// A machine as banger runs it, to be run without banger.
pub struct RawMachine {
    directory: PathBuf,
    program: String,
    arguments: Vec<String>,
}

impl RawMachine {
    /// Takes files and arguments from a VM that runs.
    pub fn like_ours(banger: &Banger) -> Result<RawMachine> {
        let vm = banger.json(&["--json", "vm", "create", "--init", "agent", "debian-12"])?;
        let name = vm["name"].as_str().unwrap_or_default().to_owned();
        let pid = vm["machine"]["pid"]
            .as_i64()
            .ok_or("the VM has no machine")?;
        let machine = Self::of_process(pid);
        banger.run(&["vm", "delete", &name])?;
        machine
    }

    fn of_process(pid: i64) -> Result<RawMachine> {
        let failed = |error: std::io::Error| format!("/proc/{pid}: {error}");
        let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(failed)?;
        let mut words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned());
        let program = words.next().ok_or("the VMM has no command line")?;
        // Ours starts paused, until the daemon is attached.
        let arguments = words.filter(|word| word != "-S").collect();
        let directory = target().join("bench-boot");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(failed)?;
        let jail = PathBuf::from(format!("/proc/{pid}/cwd"));
        for name in ["kernel", "initramfs", "base", "upper"] {
            output(
                Command::new("cp")
                    .arg("--sparse=always")
                    .arg(jail.join(name))
                    .arg(directory.join(name)),
            )?;
        }
        Ok(RawMachine {
            directory,
            program,
            arguments,
        })
    }

    /// With another initramfs and more arguments.
    pub fn with(mut self, initramfs: &Path, arguments: &[&str]) -> Result<RawMachine> {
        output(
            Command::new("cp")
                .arg(initramfs)
                .arg(self.directory.join("initramfs")),
        )?;
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Ok(self)
    }

    pub fn start(&self) -> Result<Running> {
        for name in ["agent.sock", "api.sock", "console.sock", "raw.sock"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .spawn()
            .map(Running)
            .map_err(|error| format!("{}: {error}", self.program))
    }

    /// A file beside which the machine runs.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Milliseconds from the start of QEMU to the agent's hello.
    fn boot(&self) -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no runtime: {error}"))?;
        let start = Instant::now();
        let _running = self.start()?;
        runtime.block_on(async {
            let pipe = connect(&self.file("agent.sock")).await?;
            tokio::time::timeout(
                Duration::from_secs(60),
                Link::connect(pipe, HostOptions::fresh()),
            )
            .await
            .map_err(|_| "no hello within a minute".to_owned())?
            .map_err(|error| format!("no hello: {error}"))?;
            Ok(milliseconds(start.elapsed()))
        })
    }
}

/// Connects as soon as the socket is there.
pub async fn connect(path: &Path) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > Duration::from_secs(20) => {
                return Err(format!("{}: {error}", path.display()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// A QEMU that ends with its owner.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a create costs besides the VMM and the guest, as the daemon measures it.
pub fn own_work_of_a_create(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    let mut own = Vec::new();
    let mut last = Value::Null;
    for _ in 0..CREATES {
        let vm = banger.json(&["--json", "vm", "create", "--init", "agent", "debian-12"])?;
        let name = vm["name"].as_str().unwrap_or_default().to_owned();
        last = vm["timings"].clone();
        own.push(
            last.as_array()
                .into_iter()
                .flatten()
                .filter(|timing| {
                    !["vmm", "guest_kernel", "agent"]
                        .contains(&timing["phase"].as_str().unwrap_or_default())
                })
                .filter_map(|timing| timing["ms"].as_f64())
                .sum::<f64>(),
        );
        banger.run(&["vm", "delete", &name])?;
    }
    report(
        "own work of a create, p50",
        median(&mut own),
        "ms",
        "<= 10",
        json!({ "last": last }),
    );
    Ok(())
}
