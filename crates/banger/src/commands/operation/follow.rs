//! `banger operation follow`.

use banger_protocol::api::operation::{OperationEvent, OperationState};
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::OperationId;
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use super::show;
use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::{completion, operate, output};

const EXAMPLES: &str = "\
Examples:
  banger operation follow 0123456789ab";

/// Follow an operation to its end; leaving it does not cancel it
///
/// With --json its events, one a line. Exits as the operation ended.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Follow {
    /// Its id
    #[arg(value_name = "OPERATION", add = ArgValueCompleter::new(completion::operations))]
    operation: OperationId,
}

pub async fn run(context: &Context, args: Follow) -> Outcome {
    let client = context.client().await?;
    let path = path::fill(path::OPERATION_EVENTS, &[args.operation.as_str()]);
    let mut events = client.events(Method::GET, &path, None::<&()>).await?;
    let mut shown = context.progress().operation(None);
    while let Some(event) = events.next().await? {
        if context.json {
            output::print_json_line(&event)?;
        }
        match event {
            OperationEvent::Ended { operation } => {
                drop(shown);
                if !context.json {
                    show::print(context, &operation)?;
                }
                if operation.state == OperationState::Succeeded {
                    return Ok(0);
                }
                let error = operate::result(operation).err();
                let kind = error.map_or(ErrorKind::Internal, |error| error.kind);
                return Err(Failure::Told(kind.exit_code()));
            }
            other => shown.event(&other),
        }
    }
    Err(ApiError::new(
        ErrorKind::DaemonUnavailable,
        "bangerd closed the connection before the operation ended",
    )
    .into())
}
