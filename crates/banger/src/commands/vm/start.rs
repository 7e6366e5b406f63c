//! `banger vm start`.

use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use super::create;
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, operate};

const EXAMPLES: &str = "\
Examples:
  banger vm start web
  banger vm start web db       both at the same time

Prints the name of each once its agent answers. A command given to `vm run -d` runs again.";

/// Start machines
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Start {
    /// Names, ids or unique beginnings of ids
    #[arg(value_name = "VM", value_parser = targets::named, required = true, add = ArgValueCompleter::new(completion::vms))]
    vms: Vec<String>,
}

pub async fn run(context: &Context, args: Start) -> Outcome {
    let client = context.client().await?;
    let targets = targets::vms(&client, &args.vms).await?;
    let (client, progress) = (&client, &context.progress());
    let several = targets.len() > 1;
    let start = |target: String| async move {
        let path = path::fill(path::VM_START, &[&target]);
        let events = client.events(Method::POST, &path, None::<&()>);
        let shown = progress.operation(several.then_some(target.as_str()));
        let operation = operate::operate(client, events, shown).await?;
        Ok(operate::result(operation)?)
    };
    targets::each(context, &targets, start, |target, result| {
        if let OperationResult::Vm { vm } = &result {
            create::tell_note(context, vm);
        }
        operate::print(context, target, &result)
    })
    .await
}
