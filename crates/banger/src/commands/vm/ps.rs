//! `banger ps`.

use banger_protocol::api::vm::VmState;
use clap::Args;

use super::list;
use crate::commands::Context;
use crate::failure::Outcome;

const EXAMPLES: &str = "\
Examples:
  banger ps
  banger ps -a                     also those that do not run
  banger ps -q                     only names";

/// List running machines; with -a all of them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ps {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
}

pub async fn run(context: &Context, args: Ps) -> Outcome {
    list::show(context, |state| args.all || has_machine(state)).await
}

/// A VMM process may run for it.
fn has_machine(state: VmState) -> bool {
    match state {
        VmState::Starting | VmState::Running | VmState::Unresponsive | VmState::Stopping => true,
        VmState::Created | VmState::Stopped | VmState::Failed | VmState::Deleting => false,
    }
}
