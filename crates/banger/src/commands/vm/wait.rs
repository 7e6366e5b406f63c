//! `banger vm wait`.

use std::time::{Duration, Instant};

use banger_protocol::api::path;
use banger_protocol::api::vm::WaitResult;
use banger_protocol::error::{ApiError, ErrorKind};
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::client::{Client, with_query};
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, duration, output};

/// The longest wait that bangerd grants at once.
const LONGEST: Duration = Duration::from_secs(3600);

const EXAMPLES: &str = "\
Examples:
  banger vm wait job                     until its command ended; prints the exit code
  banger vm wait --for ready web db
  banger vm wait --for stopped --timeout 5m web";

/// Wait for something to be so of machines
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Wait {
    /// Names, ids or unique beginnings of ids
    #[arg(value_name = "VM", value_parser = targets::named, required = true, add = ArgValueCompleter::new(completion::vms))]
    vms: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value = "main")]
    what: What,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Its agent answers
    Ready,
    /// Its command has ended
    Main,
    /// The machine has ended
    Stopped,
    /// It does not exist any more
    Deleted,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Ready => "ready",
            What::Main => "main",
            What::Stopped => "stopped",
            What::Deleted => "deleted",
        }
    }
}

/// Path of a wait for `what` that bangerd ends after `bound`, rounded up to milliseconds.
pub(super) fn query(vm: &str, what: What, bound: Duration) -> String {
    with_query(
        &path::fill(path::VM_WAIT, &[vm]),
        &[
            ("for", Some(what.name().to_owned())),
            (
                "timeout_ms",
                Some(duration::milliseconds_up(bound).to_string()),
            ),
        ],
    )
}

pub async fn run(context: &Context, args: Wait) -> Outcome {
    let client = context.client().await?;
    let targets = targets::vms(&client, &args.vms).await?;
    let deadline = args
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let (client, what) = (&client, args.what);
    let wait = |target: String| async move { Ok(wait(client, &target, what, deadline).await?) };
    targets::each(context, &targets, wait, |target, result| {
        if context.json {
            output::print_json_line(&result)
        } else {
            match (what, result.exit_code) {
                (What::Main, Some(code)) => output::print(&format!("{code}\n")),
                _ => output::print(&format!("{target}\n")),
            }
        }
    })
    .await
}

/// Waits as long as it takes, in portions that bangerd grants.
async fn wait(
    client: &Client,
    target: &str,
    what: What,
    deadline: Option<Instant>,
) -> Result<WaitResult, ApiError> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let portion = left.unwrap_or(LONGEST).min(LONGEST);
        let path = query(target, what, portion);
        match client.get(&path).await {
            Err(error)
                if error.kind == ErrorKind::Timeout && left.is_none_or(|left| left > portion) => {}
            // Nothing else could be meant by waiting for that.
            Err(error) if error.kind == ErrorKind::NotFound && what == What::Deleted => {
                return Ok(WaitResult {
                    vm: None,
                    exit_code: None,
                });
            }
            other => return other,
        }
    }
}
