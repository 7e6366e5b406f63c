//! `banger daemon stop`.

use clap::Args;

use crate::commands::Context;
use crate::daemon::{self, Found};
use crate::failure::{Outcome, tell};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger daemon stop
  banger daemon stop && banger daemon start     after its configuration has changed";

/// Stop bangerd; machines go on, and the next one takes them over
///
/// Operations that run are cancelled. It is no error where none runs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Stop {}

pub async fn run(context: &Context, _args: Stop) -> Outcome {
    match daemon::find(&context.environment).await? {
        Found::Absent(_) => tell_unless_quiet(context, "banger: bangerd does not run\n"),
        Found::Running(client) => {
            daemon::stop(&client).await?;
            if context.json {
                output::print_json(client.daemon())?;
            } else {
                output::print(&format!(
                    "stopped bangerd, process {}\n",
                    client.daemon().pid
                ))?;
            }
        }
    }
    Ok(0)
}

fn tell_unless_quiet(context: &Context, text: &str) {
    if !context.quiet && !context.json {
        tell(text);
    }
}
