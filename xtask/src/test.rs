//! Running the tests, and holding skips to the list.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::build;
use crate::tools::{Result, cargo, installed, program, run, workspace};

/// Seconds each fuzz target runs as part of the tests.
const FUZZ_SECONDS: &str = "10";

pub fn test() -> Result<()> {
    let agent = build::agent()?;
    let programs = build::debug_programs()?;
    let mut skips = nextest(
        &["--workspace", "--exclude", "xtask"],
        &agent,
        &programs,
        false,
    )?;
    skips.extend(run_and_collect_skips(&mut program(
        "tests/api-fuzz.sh",
        &[],
    ))?);
    hold_to_the_list(&skips)?;
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
    hold_to_the_list(&nextest(&selection, &agent, &programs, full)?)
}

/// Runs nextest, shows its output, and returns the needs for which tests were skipped.
fn nextest(
    selection: &[&str],
    agent: &Path,
    programs: &Path,
    full: bool,
) -> Result<BTreeSet<String>> {
    if !installed("cargo-nextest") {
        run(&mut cargo(&[
            "install",
            "--locked",
            "--quiet",
            "cargo-nextest",
        ]))?;
    }
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
    run_and_collect_skips(&mut command)
}

/// Tells what was skipped. In CI a need that `tests/allowed-skips` does not list is an error: its
/// machine should have it.
fn hold_to_the_list(skipped: &BTreeSet<String>) -> Result<()> {
    let allowed = allowed_skips()?;
    let unexpected: Vec<&String> = skipped
        .iter()
        .filter(|skip| !allowed.contains(*skip))
        .collect();
    for skip in skipped {
        println!("skipped: {skip}");
    }
    if unexpected.is_empty() || std::env::var_os("CI").is_none() {
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
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
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
        .map_err(|error| format!("cannot wait for {command:?}: {error}"))?;
    if status.success() {
        Ok(skipped)
    } else {
        Err(format!("{}: {status}", command.get_program().display()))
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
