//! `banger operation cancel`.

use banger_protocol::api::operation::Operation;
use banger_protocol::api::path;
use banger_protocol::name::OperationId;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use super::list;
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger operation cancel 0123456789ab
  banger operation list -q | xargs banger operation cancel";

/// Cancel operations; what was half done is undone
///
/// Returns at once; `operation follow` waits until it is undone.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cancel {
    /// Their ids
    #[arg(value_name = "OPERATION", required = true, add = ArgValueCompleter::new(completion::operations))]
    operations: Vec<OperationId>,
}

pub async fn run(context: &Context, args: Cancel) -> Outcome {
    let client = context.client().await?;
    let named: Vec<String> = args.operations.into_iter().map(String::from).collect();
    let targets = targets::distinct(&named);
    let client = &client;
    let cancel = |id: String| async move {
        let path = path::fill(path::OPERATION_CANCEL, &[&id]);
        let operation: Operation = client.send(Method::POST, &path, None::<&()>).await?;
        Ok(operation)
    };
    targets::each(context, &targets, cancel, |_, operation| {
        if context.json {
            output::print_json_line(&operation)
        } else {
            let state = list::state(operation.state);
            output::print(&format!("{} {state}\n", operation.id))
        }
    })
    .await
}
