//! Building: the agent as a static program, and releases.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{Result, cargo, output, program, run, target};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs that are installed for people, besides the agent.
const PROGRAMS: [&str; 2] = ["banger", "bangerd"];

/// Where each shell looks for completions, below `share`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/banger"),
    ("zsh", "zsh/site-functions/_banger"),
    ("fish", "fish/vendor_completions.d/banger.fish"),
];

/// Builds the agent and returns its path. It is linked statically against glibc, since it runs
/// in images that hold nothing.
pub fn agent() -> Result<PathBuf> {
    static_program(&["--bin", "banger-agent"])?;
    Ok(target().join(TARGET).join("agent/banger-agent"))
}

/// Builds an example of the agent's in the same way and returns its path.
pub fn agent_example(name: &str) -> Result<PathBuf> {
    static_program(&["--example", name])?;
    Ok(target().join(TARGET).join("agent/examples").join(name))
}

fn static_program(which: &[&str]) -> Result<()> {
    run(stamped(
        cargo(&[
            "build",
            "--locked",
            "--package",
            "banger-agent",
            "--profile",
            "agent",
            "--target",
            TARGET,
        ])
        .args(which),
    )
    .env("RUSTFLAGS", "-C target-feature=+crt-static"))
}

/// Builds the daemon and the CLI as the tests use them and returns their directory.
pub fn debug_programs() -> Result<PathBuf> {
    run(stamped(&mut cargo(&[
        "build", "--locked", "-p", "banger", "-p", "bangerd",
    ])))?;
    Ok(target().join("debug"))
}

/// Builds release programs into `target/dist`, laid out as they are installed: `bin/banger`,
/// `bin/bangerd`, `lib/banger/banger-agent`, and below `share` the manual and completions.
pub fn dist() -> Result<PathBuf> {
    let agent = agent()?;
    run(stamped(&mut cargo(&[
        "build",
        "--locked",
        "--release",
        "-p",
        "banger",
        "-p",
        "bangerd",
    ])))?;
    let dist = target().join("dist");
    for name in PROGRAMS {
        place(
            &target().join("release").join(name),
            &dist.join("bin").join(name),
        )?;
    }
    place(&agent, &dist.join("lib/banger/banger-agent"))?;
    documents(&dist)?;
    Ok(dist)
}

/// Manual pages and completions, which the CLI makes from its own definitions.
fn documents(dist: &Path) -> Result<()> {
    let banger = dist.join("bin/banger");
    let share = dist.join("share");
    let _ = fs::remove_dir_all(&share);
    output(
        Command::new(&banger)
            .args(["man", "--out"])
            .arg(share.join("man/man1")),
    )?;
    for (shell, place) in COMPLETIONS {
        let path = share.join(place);
        let script = output(Command::new(&banger).args(["completion", shell]))?;
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, script + "\n"))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Replaces `to` by a copy of `from`, also while `to` is being executed. An equal file keeps its
/// modification time, by which the CLI tells an old daemon from a new one.
fn place(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| format!("cannot place {}: {error}", to.display());
    let bytes = fs::read(from).map_err(failed)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let new = to.with_extension("new");
    fs::write(&new, bytes).map_err(failed)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    fs::rename(&new, to).map_err(failed)
}

/// Tells the compiler which commit this is and when it was made.
fn stamped(command: &mut Command) -> &mut Command {
    let git = |arguments: &[&str]| output(&mut program("git", arguments));
    if let Ok(commit) = git(&[
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty",
        "--exclude=*",
    ]) {
        command.env("BANGER_COMMIT", commit);
    }
    if let Ok(time) = git(&["log", "-1", "--format=%cI"]) {
        command.env("BANGER_BUILT_AT", time);
    }
    command
}
