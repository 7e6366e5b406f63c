//! `banger daemon start`.

use clap::Args;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger daemon start
  BANGER_ROOT=/tmp/try banger daemon start      one of its own, apart from all others";

/// Start bangerd in the background, if it does not run
///
/// Other commands do that by themselves. As root it is the host's daemon, with everything in
/// /etc/banger, /var/lib/banger and /run/banger; else your own, in the XDG directories;
/// BANGER_ROOT=DIR puts all of it below one directory.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Start {}

pub async fn run(context: &Context, _args: Start) -> Outcome {
    let client = context.client().await?;
    let daemon = client.daemon();
    if context.json {
        output::print_json(daemon)?;
    } else {
        output::print(&format!("bangerd runs as process {}\n", daemon.pid))?;
    }
    Ok(0)
}
