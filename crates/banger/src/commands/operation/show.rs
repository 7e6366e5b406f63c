//! `banger operation show`.

use banger_protocol::api::operation::Operation;
use banger_protocol::api::path;
use banger_protocol::name::OperationId;
use clap::Args;
use clap_complete::ArgValueCompleter;
use time::OffsetDateTime;

use super::list;
use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger operation show 0123456789ab";

/// Show what became of an operation
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// Its id
    #[arg(value_name = "OPERATION", add = ArgValueCompleter::new(completion::operations))]
    operation: OperationId,
}

pub async fn run(context: &Context, args: Show) -> Outcome {
    let client = context.client().await?;
    let operation: Operation = client
        .get(&path::fill(path::OPERATION, &[args.operation.as_str()]))
        .await?;
    print(context, &operation)?;
    Ok(0)
}

/// Prints one operation.
pub fn print(context: &Context, operation: &Operation) -> Result<(), Failure> {
    if context.json {
        output::print_json(operation)
    } else {
        output::print(&text(operation, OffsetDateTime::now_utc()))
    }
}

fn text(operation: &Operation, now: OffsetDateTime) -> String {
    let ago = |then| format!("{} ago", output::age(then, now));
    let mut lines = vec![
        ("id", operation.id.to_string()),
        ("kind", list::kind(operation.kind).to_owned()),
        ("subject", operation.subject.clone()),
        ("state", list::state(operation.state).to_owned()),
        ("stage", operation.stage.clone()),
        ("started", ago(operation.started_at)),
    ];
    lines.extend(operation.ended_at.map(|then| ("ended", ago(then))));
    if let Some(error) = &operation.error {
        lines.push(("error", error.message.clone()));
        lines.extend(error.hint.iter().map(|hint| ("hint", hint.clone())));
    }
    output::fields(&lines)
}
