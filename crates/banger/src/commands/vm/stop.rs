//! `banger vm stop`.

use std::time::Duration;

use banger_protocol::api::path;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use crate::client::with_query;
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, duration, operate};

const EXAMPLES: &str = "\
Examples:
  banger vm stop web
  banger vm stop --timeout 2m db
  banger vm stop --timeout 0 web       at once; what was not written to disk is lost

Nothing that was written before `vm stop` returned is lost. Prints the name of each.";

/// Stop machines; their disks stay
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Stop {
    /// Names, ids or unique beginnings of ids
    #[arg(value_name = "VM", value_parser = targets::named, required = true, add = ArgValueCompleter::new(completion::vms))]
    vms: Vec<String>,
    /// How long the guest may take to switch itself off before it is switched off [default: 30s,
    /// or what the configuration says]
    #[arg(long, visible_alias = "time", value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub async fn run(context: &Context, args: Stop) -> Outcome {
    let client = context.client().await?;
    let targets = targets::vms(&client, &args.vms).await?;
    let (client, progress) = (&client, &context.progress());
    let several = targets.len() > 1;
    let timeout = args
        .timeout
        .map(|timeout| duration::milliseconds(timeout).to_string());
    let timeout = &timeout;
    let stop = |target: String| async move {
        let path = with_query(
            &path::fill(path::VM_STOP, &[&target]),
            &[("timeout_ms", timeout.clone())],
        );
        let events = client.events(Method::POST, &path, None::<&()>);
        let shown = progress.operation(several.then_some(target.as_str()));
        let operation = operate::operate(client, events, shown).await?;
        Ok(operate::result(operation)?)
    };
    targets::each(context, &targets, stop, |target, result| {
        operate::print(context, target, &result)
    })
    .await
}
