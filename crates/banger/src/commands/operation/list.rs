//! `banger operation list`.

use banger_protocol::api::operation::{Operation, OperationKind, OperationList, OperationState};
use banger_protocol::api::path;
use clap::Args;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  banger operation list
  banger operation list --json | jq '.operations[] | select(.state == \"running\")'";

/// List operations that run or ended lately
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {}

pub async fn run(context: &Context, _args: List) -> Outcome {
    let client = context.client().await?;
    let list: OperationList = client.get(path::OPERATIONS).await?;
    if context.json {
        output::print_json(&list)?;
    } else if context.quiet {
        let ids: String = list
            .operations
            .iter()
            .map(|operation| format!("{}\n", operation.id))
            .collect();
        output::print(&ids)?;
    } else {
        output::print(&table(&list.operations, OffsetDateTime::now_utc()))?;
    }
    Ok(0)
}

fn table(operations: &[Operation], now: OffsetDateTime) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("KIND", Align::Left),
        ("SUBJECT", Align::Left),
        ("STATE", Align::Left),
        ("STAGE", Align::Left),
        ("STARTED", Align::Left),
    ]);
    for operation in operations {
        table.row([
            &operation.id,
            &kind(operation.kind),
            &operation.subject,
            &state(operation.state),
            &operation.stage,
            &format_args!("{} ago", output::age(operation.started_at, now)),
        ]);
    }
    table.render()
}

/// What it does, as a command says it.
pub fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::VmCreate => "vm create",
        OperationKind::VmStart => "vm start",
        OperationKind::VmStop => "vm stop",
        OperationKind::VmDelete => "vm delete",
        OperationKind::ImagePull => "image pull",
        OperationKind::ImageImport => "image import",
        OperationKind::ImagePrune => "image prune",
        OperationKind::KernelPull => "kernel pull",
        OperationKind::KernelImport => "kernel import",
    }
}

pub fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

/// An operation for tests.
#[cfg(test)]
pub fn example(state: OperationState) -> Operation {
    Operation {
        id: "0123456789ab".parse().unwrap(),
        kind: OperationKind::ImagePull,
        subject: "debian:bookworm".into(),
        state,
        stage: "fetch".into(),
        started_at: time::macros::datetime!(2026-01-01 00:00 UTC),
        ended_at: None,
        error: None,
        result: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let operation = example(OperationState::Running);
        let now = operation.started_at + time::Duration::seconds(40);
        insta::assert_snapshot!(table(&[operation], now));
    }
}
