//! Runs that take longer than a test may.

use std::time::Instant;

use crate::build;
use crate::run::Banger;
use crate::tools::{Result, target};

/// Boots a VM `count` times in a row; every boot must come up and run a command.
pub fn boots(count: &str) -> Result<()> {
    let count: u32 = count
        .parse()
        .map_err(|_| format!("{count:?} is not a number of boots"))?;
    let banger = Banger::new(&build::dist()?, &target().join("run"))?;
    let mut failed = Vec::new();
    let start = Instant::now();
    for boot in 1..=count {
        match banger.run(&["vm", "run", "--rm", "debian-12", "--", "true"]) {
            Ok(_) => {}
            Err(error) => failed.push(format!("boot {boot}: {error}")),
        }
        if boot % 10 == 0 {
            eprintln!(
                "{}/{boot} came up, {:.1} s a boot",
                boot as usize - failed.len(),
                start.elapsed().as_secs_f64() / f64::from(boot)
            );
        }
    }
    println!("{} of {count} boots came up", count as usize - failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}
