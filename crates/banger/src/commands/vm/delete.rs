//! `banger vm delete`.

use banger_protocol::api::path;
use banger_protocol::error::ErrorKind;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use crate::commands::{Context, targets};
use crate::failure::{Failure, Outcome};
use crate::{completion, operate};

const EXAMPLES: &str = "\
Examples:
  banger vm delete web
  banger vm rm web db          both at the same time
  banger rm -f web             no error where there is no such machine

A running machine is stopped first. Prints the name of each.";

/// Delete machines with everything they wrote
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    /// Names, ids or unique beginnings of ids
    #[arg(value_name = "VM", value_parser = targets::named, required = true, add = ArgValueCompleter::new(completion::vms))]
    vms: Vec<String>,
    /// What does not exist is no error
    #[arg(long, short)]
    force: bool,
}

pub async fn run(context: &Context, args: Delete) -> Outcome {
    let client = context.client().await?;
    let targets = targets::vms(&client, &args.vms).await?;
    let (client, progress) = (&client, &context.progress());
    let (several, force) = (targets.len() > 1, args.force);
    let delete = |target: String| async move {
        let path = path::fill(path::VM, &[&target]);
        let events = client.events(Method::DELETE, &path, None::<&()>);
        let shown = progress.operation(several.then_some(target.as_str()));
        let ended = operate::operate(client, events, shown)
            .await
            .and_then(|operation| Ok(operate::result(operation)?));
        match ended {
            Ok(result) => Ok(Some(result)),
            Err(Failure::Error(error)) if force && error.kind == ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    };
    targets::each(context, &targets, delete, |target, result| match result {
        Some(result) => operate::print(context, target, &result),
        None => Ok(()),
    })
    .await
}
