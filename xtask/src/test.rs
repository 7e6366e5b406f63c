//! Running the tests, and holding skips to the list.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::build;
use crate::tools::{Result, cargo, installed, program, run, workspace};

/// Seconds each fuzz target runs as part of the tests.
const FUZZ_SECONDS: &str = "10";

/// Where `.config/nextest.toml` puts the report.
const REPORT: &str = "target/nextest/default/junit.xml";

pub fn test() -> Result<()> {
    let agent = build::agent()?;
    let programs = build::debug_programs()?;
    let mut skips = nextest(
        &["--workspace", "--exclude", "xtask"],
        &agent,
        &programs,
        false,
    )?;
    skips.extend(api_fuzz()?);
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

/// Runs nextest and returns the needs for which tests were skipped, which its report holds: what
/// passes is silent.
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
    let report = workspace().join(REPORT);
    let _ = fs::remove_file(&report);
    let mut command = cargo(&["nextest", "run", "--locked", "--no-tests", "pass"]);
    command
        .args(selection)
        .env("BANGER_AGENT", agent)
        .env("BANGER_TEST_PROGRAMS", programs);
    if full {
        command.env("BANGER_TEST_FULL", "1");
    }
    run(&mut command)?;
    let text =
        fs::read_to_string(&report).map_err(|error| format!("{}: {error}", report.display()))?;
    Ok(skips(&text).map(|need| unescape(&need)).collect())
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

/// Runs the API's fuzzer and returns the needs for which it was skipped.
fn api_fuzz() -> Result<BTreeSet<String>> {
    let mut command = program("tests/api-fuzz.sh", &[]);
    eprintln!("+ tests/api-fuzz.sh");
    let output = command
        .stdout(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run tests/api-fuzz.sh: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    eprint!("{text}");
    if output.status.success() {
        Ok(skips(&text).collect())
    } else {
        Err(format!("tests/api-fuzz.sh: {}", output.status))
    }
}

/// The needs in lines `skipped: NEED`, which may be in an element of nextest's report.
fn skips(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let (before, need) = line.split_once("skipped: ")?;
        let begins = before.trim().is_empty() || before.ends_with('>');
        let need = need.split("</").next().unwrap_or_default().trim();
        begins.then(|| need.to_owned())
    })
}

fn unescape(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escaped, plain)| {
        text.replace(escaped, plain)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_found_in_a_report() {
        let report = "<system-err>skipped: fsck.erofs &gt;= 1.8\n\
                      skipped: root</system-err>\n\
                      <system-out>test says skipped: nothing</system-out>";
        let found: Vec<String> = skips(report).map(|need| unescape(&need)).collect();
        assert_eq!(found, ["fsck.erofs >= 1.8", "root"]);
    }
}
