//! `banger vm create`.

use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use banger_protocol::api::vm::{CreateVm, Vm};
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use super::spec::{self, Machine};
use crate::client::Client;
use crate::commands::Context;
use crate::failure::{Failure, Outcome, printable, tell};
use crate::{completion, credentials, operate, output};

const EXAMPLES: &str = "\
Examples:
  banger vm create --name web debian-12
  banger vm create --no-start --memory 4G --vcpu 4 --disk-size 20G debian:bookworm

Prints the machine's name once its agent answers.";

/// Create a machine and start it, without running anything in it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Create {
    /// Local name, catalog name or any reference, pulled where it is not here
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(completion::images))]
    positional: Option<String>,
    /// The same as the positional IMAGE
    #[arg(long, value_name = "IMAGE", add = ArgValueCompleter::new(completion::images))]
    image: Option<String>,
    /// Only create it
    #[arg(long)]
    no_start: bool,
    #[command(flatten)]
    machine: Machine,
}

pub async fn run(context: &Context, args: Create) -> Outcome {
    let image = spec::image(args.image, args.positional)?;
    let mut request = args.machine.request(&context.environment, image)?;
    request.no_start = args.no_start;
    let client = context.client().await?;
    let vm = create(context, &client, request).await?;
    if context.json {
        output::print_json(&vm)?;
    } else {
        output::print(&format!("{}\n", vm.name))?;
    }
    Ok(0)
}

/// What is odd about a machine that did start: a command of its own that did not, say.
pub fn tell_note(context: &Context, vm: &Vm) {
    if let Some(note) = &vm.note
        && !context.json
    {
        tell(&format!("banger: {}: {}\n", vm.name, printable(note)));
    }
}

/// Creates the machine that `request` describes and waits for it.
pub async fn create(
    context: &Context,
    client: &Client,
    mut request: CreateVm,
) -> Result<Box<Vm>, Failure> {
    request.credentials =
        credentials::for_vm(&context.environment, client, request.image.as_deref()).await?;
    let shown = context.progress().operation(None);
    let events = client.events(Method::POST, path::VMS, Some(&request));
    let operation = operate::operate(client, events, shown).await?;
    match operate::result(operation)? {
        OperationResult::Vm { vm } => {
            tell_note(context, &vm);
            Ok(vm)
        }
        other => Err(operate::unexpected(&other).into()),
    }
}
