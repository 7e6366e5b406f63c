//! Fuzzing with the stable compiler: libFuzzer's counters are a pass of LLVM which `cargo fuzz`
//! would ask a nightly compiler for, with sanitizers that these targets, safe Rust, do not need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{Result, cargo, output, program, run, target, workspace};

const TARGETS: [&str; 3] = ["frames", "layers", "references"];

/// What `cargo fuzz build --sanitizer none` passes.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing";

/// Bytes of an input; a layer needs a few tar blocks to say something.
const INPUT_MAX: &str = "-max_len=65536";

/// One input may take so many seconds.
const INPUT_TIMEOUT: &str = "-timeout=20";

/// MiB of memory one target may take.
const MEMORY_MAX: &str = "-rss_limit_mb=2048";

/// Runs each target, on its seeds and what earlier runs found, for `seconds` more.
pub fn run_all(seconds: &str) -> Result<()> {
    let seconds: u32 = seconds
        .parse()
        .map_err(|_| format!("{seconds:?} is not a number of seconds"))?;
    let fuzz = workspace().join("fuzz");
    let built = target().join("fuzz");
    // With a target named, build scripts are built without the counters, which they could not link.
    let host = host_triple()?;
    let build = ["build", "--locked", "--release", "--quiet", "--target"];
    run(cargo(&build)
        .arg(&host)
        .current_dir(&fuzz)
        .env("CARGO_TARGET_DIR", &built)
        .env("RUSTFLAGS", COVERAGE))?;
    let started: Vec<_> = TARGETS
        .iter()
        .map(|name| start(name, &built, &host, seconds))
        .collect::<Result<_>>()?;
    let failed: Vec<String> = started
        .into_iter()
        .filter_map(|running| running.finish().err())
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

fn host_triple() -> Result<String> {
    let version = output(&mut program("rustc", &["-vV"]))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| format!("rustc does not say what its host is: {version}"))
}

/// A target at work. It prints a lot, which is shown only if it fails.
struct Running {
    name: &'static str,
    child: std::process::Child,
    log: PathBuf,
}

fn start(name: &'static str, built: &Path, host: &str, seconds: u32) -> Result<Running> {
    let failed = |error: std::io::Error| format!("fuzz target {name}: {error}");
    let work = built.join("work").join(name);
    let corpus = work.join("corpus");
    fs::create_dir_all(&corpus).map_err(failed)?;
    let log = work.join("log");
    let output = fs::File::create(&log).map_err(failed)?;
    let mut command = Command::new(built.join(host).join("release").join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .args([INPUT_MAX, INPUT_TIMEOUT, MEMORY_MAX])
        .arg(format!("-artifact_prefix={}/", work.display()))
        .arg(&corpus)
        .current_dir(&work)
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output);
    let seeds = workspace().join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let child = command.spawn().map_err(failed)?;
    Ok(Running { name, child, log })
}

impl Running {
    fn finish(mut self) -> Result<()> {
        let status = self
            .child
            .wait()
            .map_err(|error| format!("fuzz target {}: {error}", self.name))?;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if !status.success() {
            return Err(format!("fuzz target {}: {status}\n{text}", self.name));
        }
        let done = text.lines().rev().find(|line| line.starts_with("Done "));
        match done {
            Some(done) => {
                eprintln!("fuzz target {}: {done}", self.name);
                Ok(())
            }
            None => Err(format!("fuzz target {} did not run\n{text}", self.name)),
        }
    }
}
