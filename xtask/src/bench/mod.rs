//! Measurements, as JSON lines on stdout: what, how much, in which unit, what was hoped for.
//!
//! A ratio's two sides are measured in turns within one run, since the machine is never quiet.
//! Nothing here fails on a number; `docs/benchmarks.md` says what was seen, and on what.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::build;
use crate::run::Banger;
use crate::tools::{Result, cargo, run, target};

mod boot;
mod commands;
mod disk;
mod import;
mod link;

/// One scenario.
struct Scenario {
    name: &'static str,
    run: fn(&Bench) -> Result<()>,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "boot",
        run: boot::run_against_raw_qemu,
    },
    Scenario {
        name: "create",
        run: boot::own_work_of_a_create,
    },
    Scenario {
        name: "import",
        run: import::against_the_usual_tools,
    },
    Scenario {
        name: "disk",
        run: disk::what_a_vm_adds,
    },
    Scenario {
        name: "list",
        run: commands::list_of_a_thousand,
    },
    Scenario {
        name: "exec",
        run: commands::exec_true,
    },
    Scenario {
        name: "link",
        run: link::throughput,
    },
];

/// What the scenarios share: release programs and a daemon with kernel and image.
pub struct Bench {
    banger: Banger,
    dist: std::path::PathBuf,
}

pub fn bench(names: &[&str]) -> Result<()> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| names.is_empty() || names.contains(&scenario.name))
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(format!("no scenario {names:?}; there are {known:?}"));
    }
    if cfg!(debug_assertions) {
        // What is measured against runs in this program, and must not be the slower for it.
        let again = ["run", "--locked", "--release", "-p", "xtask", "--", "bench"];
        return run(cargo(&again).args(names));
    }
    let dist = build::dist()?;
    let banger = Banger::new(&dist, &target().join("run"))?;
    let bench = Bench { banger, dist };
    for (group, name) in [("kernel", "debian-6.1-cloud"), ("image", "debian-12")] {
        crate::run::pull_if_missing(&bench.banger, group, name)?;
    }
    for scenario in chosen {
        eprintln!("# {}", scenario.name);
        (scenario.run)(&bench)?;
    }
    Ok(())
}

/// Prints one measurement.
fn report(name: &str, value: f64, unit: &str, goal: &str, more: Value) {
    let mut line = json!({ "name": name, "value": round(value), "unit": unit, "goal": goal });
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    println!("{line}");
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values {
        [] => 0.0,
        values => values[values.len() / 2],
    }
}

/// Milliseconds of one go.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((milliseconds(start.elapsed()), result))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
