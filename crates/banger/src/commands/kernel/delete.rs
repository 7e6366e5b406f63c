//! `banger kernel delete`.

use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use banger_protocol::error::ErrorKind;
use banger_protocol::name::KernelName;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, operate};

const EXAMPLES: &str = "\
Examples:
  banger kernel delete mine
  banger kernel rm -f old older";

/// Remove kernels; machines that boot them keep their own link
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    /// Their names
    #[arg(value_name = "KERNEL", required = true, add = ArgValueCompleter::new(completion::kernels))]
    kernels: Vec<KernelName>,
    /// What does not exist is no error
    #[arg(long, short)]
    force: bool,
}

pub async fn run(context: &Context, args: Delete) -> Outcome {
    let client = context.client().await?;
    let named: Vec<String> = args.kernels.into_iter().map(String::from).collect();
    let targets = targets::distinct(&named);
    let (client, force) = (&client, args.force);
    let delete = |name: String| async move {
        let path = path::fill(path::KERNEL, &[&name]);
        match client.act(Method::DELETE, &path).await {
            Ok(()) => Ok(Some(OperationResult::Deleted { name })),
            Err(error) if force && error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    targets::each(context, &targets, delete, |target, result| match result {
        Some(result) => operate::print(context, target, &result),
        None => Ok(()),
    })
    .await
}
