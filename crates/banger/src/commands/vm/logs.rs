//! `banger vm logs`.

use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use clap::Args;
use clap_complete::ArgValueCompleter;
use http_body_util::BodyExt;

use crate::client::with_query;
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger vm logs web
  banger vm logs -f --tail 20 web
  banger vm logs --console web         what the kernel and an init print

The log holds the recent output of the machine's command, stdout and stderr as they came.";

/// Print the output of a machine's command, or its serial console
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// Name, id or unique beginning of the id
    #[arg(value_name = "VM", value_parser = targets::named, add = ArgValueCompleter::new(completion::vms))]
    vm: String,
    /// Go on until the machine ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines: a number, or all
    #[arg(long, short = 'n', value_name = "LINES", value_parser = lines,
          allow_negative_numbers = true)]
    tail: Option<Lines>,
    /// The serial console instead
    #[arg(long)]
    console: bool,
}

/// How many lines; `None` means all.
type Lines = Option<u32>;

fn lines(text: &str) -> Result<Lines, String> {
    if text == "all" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "write a number of lines, or all".to_owned())
}

pub async fn run(context: &Context, args: Logs) -> Outcome {
    let client = context.client().await?;
    let flag = |set: bool| set.then(|| "true".to_owned());
    let path = with_query(
        &path::fill(path::VM_LOGS, &[&args.vm]),
        &[
            ("console", flag(args.console)),
            ("follow", flag(args.follow)),
            ("tail", args.tail.flatten().map(|lines| lines.to_string())),
        ],
    );
    let mut body = client.stream(&path).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(
                ErrorKind::DaemonUnavailable,
                format!("the connection to bangerd broke: {error}"),
            )
        })?;
        if let Ok(data) = frame.into_data() {
            output::print_bytes(&data)?;
        }
    }
    Ok(0)
}
