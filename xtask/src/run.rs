//! The main job: what a new user sees first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::build;
use crate::tools::{Result, output, target};

const IMAGE: &str = "debian-12";
const COMMANDS: [&[&str]; 3] = [&["uname", "-r"], &["id"], &["cat", "/etc/os-release"]];

/// One daemon in a directory of its own.
pub struct Banger {
    program: PathBuf,
    root: PathBuf,
}

impl Banger {
    pub fn new(dist: &Path, root: &Path) -> Result<Banger> {
        std::fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
        Ok(Banger {
            program: dist.join("bin/banger"),
            root: root.to_owned(),
        })
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BANGER_ROOT", &self.root);
        command
    }

    /// Runs with the terminal's stderr, so that progress is seen, and returns stdout.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        command.stderr(std::process::Stdio::inherit());
        output(&mut command)
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{arguments:?} printed no JSON: {error}"))
    }
}

impl Drop for Banger {
    fn drop(&mut self) {
        let _ = output(&mut self.command(&["daemon", "stop"]));
    }
}

/// Milliseconds by phase, in the order in which they began.
struct Phases(Vec<(String, f64)>);

impl Phases {
    fn add(&mut self, phase: &str, ms: f64) {
        match self.0.iter_mut().find(|(known, _)| known == phase) {
            Some((_, sum)) => *sum += ms,
            None => self.0.push((phase.to_owned(), ms)),
        }
    }

    fn timed<T>(&mut self, phase: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work()?;
        self.add(phase, start.elapsed().as_secs_f64() * 1e3);
        Ok(result)
    }

    fn print(&self) {
        println!("\n{:<16} {:>10}", "PHASE", "MS");
        for (phase, ms) in &self.0 {
            println!("{phase:<16} {ms:>10.1}");
        }
    }
}

pub fn run(arguments: &[&str]) -> Result<()> {
    let root = match arguments {
        [] => target().join("run"),
        ["--root", root] => PathBuf::from(root),
        _ => return Err("usage: cargo xtask run [--root DIR]".to_owned()),
    };
    let banger = Banger::new(&build::dist()?, &root)?;
    let mut phases = Phases(Vec::new());
    banger.run(&["daemon", "start"])?;

    phases.timed("kernel", || {
        pull_if_missing(&banger, "kernel", "debian-6.1-cloud")
    })?;
    phases.timed("image", || pull_if_missing(&banger, "image", IMAGE))?;

    let vm = banger.json(&["--json", "vm", "create", IMAGE])?;
    let name = vm["name"]
        .as_str()
        .ok_or("the new VM has no name")?
        .to_owned();
    for timing in vm["timings"].as_array().into_iter().flatten() {
        if let (Some(phase), Some(ms)) = (timing["phase"].as_str(), timing["ms"].as_f64()) {
            phases.add(phase, ms);
        }
    }
    let mut outputs = Vec::new();
    for command in COMMANDS {
        let mut exec = vec!["vm", "exec", &name, "--"];
        exec.extend(command);
        let label = format!("exec {}", command[0]);
        outputs.push((
            command.join(" "),
            phases.timed(&label, || banger.run(&exec))?,
        ));
    }
    phases.timed("delete", || banger.run(&["vm", "delete", &name]))?;
    for (command, text) in &outputs {
        println!("$ {command}\n{text}");
    }
    phases.print();
    Ok(())
}

/// Pulls, and says so, only where it is not there: the second run downloads nothing.
pub fn pull_if_missing(banger: &Banger, group: &str, name: &str) -> Result<()> {
    let show = output(&mut banger.command(&[group, "show", name]));
    if show.is_err() {
        banger.run(&[group, "pull", name])?;
    }
    Ok(())
}
