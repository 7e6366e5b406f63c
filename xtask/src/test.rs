//! Running the tests, and holding skips to the list.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::build;
use crate::tools::{Result, cargo, installed, run, target, workspace};

/// Seconds each fuzz target runs as part of the tests.
const FUZZ_SECONDS: &str = "10";

pub fn test() -> Result<()> {
    let agent = build::agent()?;
    let programs = build::debug_programs()?;
    nextest(
        &["--workspace", "--exclude", "xtask"],
        &agent,
        &programs,
        false,
    )?;
    fuzz(&[FUZZ_SECONDS])
}

pub fn e2e(arguments: &[&str]) -> Result<()> {
    let full = arguments.contains(&"--full");
    let names: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|argument| *argument != "--full")
        .collect();
    let agent = build::agent()?;
    let programs = build::debug_programs()?;
    let mut selection = vec!["-p", "banger-e2e"];
    selection.extend(names);
    nextest(&selection, &agent, &programs, full)
}

/// Runs nextest, shows its output, and fails on a skip which `tests/allowed-skips` does not list.
fn nextest(selection: &[&str], agent: &Path, programs: &Path, full: bool) -> Result<()> {
    if !installed("cargo-nextest") {
        run(&mut cargo(&[
            "install",
            "--locked",
            "--quiet",
            "cargo-nextest",
        ]))?;
    }
    let skips = target().join("skips");
    let _ = fs::remove_dir_all(&skips);
    fs::create_dir_all(&skips).map_err(|error| format!("{}: {error}", skips.display()))?;
    let mut command = cargo(&["nextest", "run", "--locked", "--no-tests", "pass"]);
    command
        .args(selection)
        // Skips are printed by tests that pass.
        .args(["--success-output", "immediate", "--status-level", "fail"])
        .env("BANGER_AGENT", agent)
        .env("BANGER_TEST_PROGRAMS", programs);
    if full {
        command.env("BANGER_TEST_FULL", "1");
    }
    let skipped = run_and_collect_skips(&mut command)?;
    let allowed = allowed_skips()?;
    let unexpected: Vec<&String> = skipped
        .iter()
        .filter(|skip| !allowed.contains(*skip))
        .collect();
    for skip in &skipped {
        println!("skipped: {skip}");
    }
    if unexpected.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "tests were skipped for needs that tests/allowed-skips does not list: {unexpected:?}"
        ))
    }
}

/// Passes on what a test program prints, except the noise of passing tests, and returns the needs
/// of all `skipped: NEED` lines.
fn run_and_collect_skips(command: &mut Command) -> Result<BTreeSet<String>> {
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run cargo nextest: {error}"))?;
    let mut skipped = BTreeSet::new();
    let stderr = child.stderr.take().ok_or("no stderr")?;
    for line in BufReader::new(stderr).lines() {
        let line = line.map_err(|error| format!("cannot read the tests' output: {error}"))?;
        if let Some((_, need)) = line.split_once("skipped: ")
            && line.trim_start().starts_with("skipped: ")
        {
            skipped.insert(need.trim().to_owned());
        }
        eprintln!("{line}");
    }
    let status = child
        .wait()
        .map_err(|error| format!("cargo nextest: {error}"))?;
    if status.success() {
        Ok(skipped)
    } else {
        Err(format!("cargo nextest: {status}"))
    }
}

fn allowed_skips() -> Result<BTreeSet<String>> {
    let path = workspace().join("tests/allowed-skips");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

/// Runs each fuzz target on its corpus and then for so many seconds more.
pub fn fuzz(arguments: &[&str]) -> Result<()> {
    let seconds = match arguments {
        [] => FUZZ_SECONDS,
        [seconds] => seconds,
        _ => return Err("usage: cargo xtask fuzz [SECONDS]".to_owned()),
    };
    crate::fuzz::run_all(seconds)
}
