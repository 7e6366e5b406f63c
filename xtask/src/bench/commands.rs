//! How long a command takes beyond what it must.

use std::process::Command;

use serde_json::json;

use super::{Bench, median, report, timed};
use crate::run::Banger;
use crate::tools::{Result, output};

const VMS: usize = 1000;
const ROUNDS: usize = 40;

/// `vm list` with a thousand stored VMs, whole process, against `true`.
pub fn list_of_a_thousand(bench: &Bench) -> Result<()> {
    let root = crate::tools::target().join("bench-list");
    let _ = std::fs::remove_dir_all(&root);
    let banger = Banger::new(&bench.dist, &root)?;
    let tree = root.join("tree");
    std::fs::create_dir_all(tree.join("bin"))
        .map_err(|error| format!("{}: {error}", tree.display()))?;
    banger.run(&["kernel", "pull", "debian-6.1-cloud"])?;
    let source = format!("rootfs:{}", tree.display());
    banger.run(&["image", "pull", &source, "--name", "empty"])?;
    for number in 0..VMS {
        let name = format!("vm-{number}");
        output(&mut banger.command(&["vm", "create", "--no-start", "--name", &name, "empty"]))?;
    }
    let (mut list, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        list.push(timed(|| output(&mut banger.command(&["vm", "list"])))?.0);
        nothing.push(timed(|| output(&mut Command::new("true")))?.0);
    }
    let (list, nothing) = (median(&mut list), median(&mut nothing));
    report(
        "vm list of 1,000 above true",
        list - nothing,
        "ms",
        "<= 5",
        json!({ "list_ms": list, "true_ms": nothing }),
    );
    drop(banger);
    let _ = std::fs::remove_dir_all(&root);
    Ok(())
}

/// `vm exec -- true` on a running VM, whole process, less the guest's own fork and exec.
pub fn exec_true(bench: &Bench) -> Result<()> {
    let banger = &bench.banger;
    banger.run(&[
        "vm",
        "create",
        "--init",
        "agent",
        "--name",
        "bench-exec",
        "debian-12",
    ])?;
    let result = measure_exec(banger);
    banger.run(&["vm", "delete", "bench-exec"])?;
    result
}

fn measure_exec(banger: &Banger) -> Result<()> {
    // The guest's shell forks and executes the same program, and tells the time itself.
    const LOOP: &str = "s=$(date +%s%N); i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; e=$(date +%s%N); echo $(( (e - s) / 100 ))";
    let (mut exec, mut guest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        exec.push(
            timed(|| {
                output(&mut banger.command(&["vm", "exec", "bench-exec", "--", "/bin/true"]))
            })?
            .0,
        );
    }
    for _ in 0..3 {
        let ns = banger.run(&["vm", "exec", "bench-exec", "--", "/bin/sh", "-c", LOOP])?;
        guest.push(
            ns.parse::<f64>()
                .map_err(|error| format!("{ns:?}: {error}"))?
                / 1e6,
        );
    }
    let (exec, guest) = (median(&mut exec), median(&mut guest));
    report(
        "vm exec -- true, our share",
        exec - guest,
        "ms",
        "none set",
        json!({ "exec_ms": exec, "guest_fork_exec_ms": guest }),
    );
    Ok(())
}
