//! What a change must pass before any test runs.

use std::path::PathBuf;

use crate::tools::{Result, cargo, installed, output, program, run, workspace};

/// Version of cargo-deny that is installed where none is.
const CARGO_DENY: &str = "0.20";

pub fn check() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(&mut cargo(&["test", "--locked", "--quiet", "-p", "xtask"]))?;
    deny()?;
    shellcheck()
}

fn deny() -> Result<()> {
    if !installed("cargo-deny") {
        run(&mut cargo(&[
            "install",
            "--locked",
            "--quiet",
            // Compiles in a third of the time, and runs for two seconds.
            "--debug",
            "cargo-deny",
            "--version",
            CARGO_DENY,
        ]))?;
    }
    run(&mut cargo(&[
        "deny",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

fn shellcheck() -> Result<()> {
    let scripts = scripts()?;
    run(program("shellcheck", &[]).args(&scripts))
}

/// Every tracked shell script, by its first line.
fn scripts() -> Result<Vec<PathBuf>> {
    let files = output(&mut program("git", &["ls-files"]))?;
    Ok(files
        .lines()
        .map(PathBuf::from)
        .filter(|file| {
            std::fs::read(workspace().join(file)).is_ok_and(|bytes| {
                bytes
                    .split(|byte| *byte == b'\n')
                    .next()
                    .is_some_and(|line| line.starts_with(b"#!") && line.ends_with(b"sh"))
            })
        })
        .collect())
}
