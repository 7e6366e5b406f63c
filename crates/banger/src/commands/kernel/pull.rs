//! `banger kernel pull`.

use banger_protocol::api::kernel::PullKernel;
use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use banger_protocol::name::KernelName;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::{completion, operate, output};

const EXAMPLES: &str = "\
Examples:
  banger kernel list --available
  banger kernel pull debian-6.1-cloud

Comes through the host's own apt sources, so their signatures vouch for it.";

/// Get a kernel of the catalog
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// Its name in the catalog
    #[arg(value_name = "KERNEL", add = ArgValueCompleter::new(completion::available_kernels))]
    kernel: KernelName,
    /// Fetch again what is here already
    #[arg(long)]
    force: bool,
}

pub async fn run(context: &Context, args: Pull) -> Outcome {
    let client = context.client().await?;
    let request = PullKernel {
        name: args.kernel,
        force: args.force,
    };
    let shown = context.progress().operation(None);
    let events = client.events(Method::POST, path::KERNEL_PULL, Some(&request));
    let operation = operate::operate(&client, events, shown).await?;
    print(context, &operate::result(operation)?)?;
    Ok(0)
}

/// Prints the kernel that an operation made: its name, or the API's type.
pub fn print(context: &Context, result: &OperationResult) -> Result<(), Failure> {
    match result {
        OperationResult::Kernel { kernel } if context.json => output::print_json(kernel),
        OperationResult::Kernel { kernel } => output::print(&format!("{}\n", kernel.name)),
        other => Err(operate::unexpected(other).into()),
    }
}
