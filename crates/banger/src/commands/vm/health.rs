//! `banger vm health`.

use banger_protocol::api::path;
use banger_protocol::api::vm::VmHealth;
use banger_protocol::error::{ApiError, ErrorKind};
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::list;
use crate::commands::{Context, targets};
use crate::failure::{Failure, Outcome};
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger vm health web
  until banger -q vm health web; do sleep 1; done";

/// Ask a machine's agent whether it is well
///
/// Exits with 0 where it answered, else as the reason says.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Health {
    /// Name, id or unique beginning of the id
    #[arg(value_name = "VM", value_parser = targets::named, add = ArgValueCompleter::new(completion::vms))]
    vm: String,
}

pub async fn run(context: &Context, args: Health) -> Outcome {
    let client = context.client().await?;
    let health: VmHealth = client
        .get(&path::fill(path::VM_HEALTH, &[&args.vm]))
        .await?;
    if context.json {
        output::print_json(&health)?;
    } else if health.healthy {
        output::print(&text(&health))?;
    }
    if health.healthy {
        return Ok(0);
    }
    let state = list::state(health.state);
    let error = health.error.unwrap_or_else(|| {
        ApiError::new(
            ErrorKind::GuestUnreachable,
            format!("{} does not answer: it is {state}", args.vm),
        )
    });
    // With --json the reason is in the answer already.
    match context.json {
        true => Err(Failure::Told(error.kind.exit_code())),
        false => Err(error.into()),
    }
}

fn text(health: &VmHealth) -> String {
    let mut text = "healthy".to_owned();
    if let Some(latency) = health.latency_us {
        text.push_str(&format!(", answered in {:.1} ms", latency as f64 / 1000.0));
    }
    if let Some(uptime) = health.uptime_s {
        text.push_str(&format!(", up for {uptime:.0} s"));
    }
    text + "\n"
}
