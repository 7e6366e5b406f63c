//! `banger image prune`.

use banger_protocol::api::image::{PruneImages, PruneReport};
use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use banger_protocol::size;
use clap::Args;
use hyper::Method;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::{operate, output};

const EXAMPLES: &str = "\
Examples:
  banger image prune --dry-run
  banger image prune";

/// Remove downloaded layers that are no longer needed, and files of images that are gone
///
/// No image and no machine is touched: at most, pulling an image again downloads it again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Prune {
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Taken for granted: nothing is asked
    #[arg(long, short, hide = true)]
    force: bool,
}

pub async fn run(context: &Context, args: Prune) -> Outcome {
    let client = context.client().await?;
    let request = PruneImages {
        dry_run: args.dry_run,
    };
    let shown = context.progress().operation(None);
    let events = client.events(Method::POST, path::IMAGE_PRUNE, Some(&request));
    let operation = operate::operate(&client, events, shown).await?;
    match operate::result(operation)? {
        OperationResult::Pruned { report } if context.json => output::print_json(&report)?,
        OperationResult::Pruned { report } => output::print(&text(&report, args.dry_run))?,
        other => return Err(operate::unexpected(&other).into()),
    }
    Ok(0)
}

fn text(report: &PruneReport, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    format!(
        "{verb} {} and {}: {}\n",
        count(report.blobs, "layer"),
        count(report.bases, "base file"),
        size::format(report.bytes)
    )
}

fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report() {
        let report = PruneReport {
            blobs: 3,
            bases: 1,
            bytes: 5 << 20,
        };
        assert_eq!(
            text(&report, true),
            "would remove 3 layers and 1 base file: 5 MiB\n"
        );
    }
}
