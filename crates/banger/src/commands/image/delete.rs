//! `banger image delete`.

use banger_protocol::api::operation::OperationResult;
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use super::named;
use crate::client::Client;
use crate::commands::{Context, targets};
use crate::failure::Outcome;
use crate::{completion, operate};

const EXAMPLES: &str = "\
Examples:
  banger image delete debian-bookworm
  banger rmi -f app-1 app-2

Machines made from an image go on: its file stays until the last of them is deleted.";

/// Remove images' names
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    /// Local names, or what they were pulled as
    #[arg(value_name = "IMAGE", required = true, add = ArgValueCompleter::new(completion::images))]
    images: Vec<String>,
    /// What does not exist is no error
    #[arg(long, short)]
    force: bool,
}

pub async fn run(context: &Context, args: Delete) -> Outcome {
    let client = context.client().await?;
    let targets = targets::distinct(&args.images);
    let (client, force) = (&client, args.force);
    let act = |target: String| async move {
        match delete(client, &target).await {
            Ok(name) => Ok(Some(OperationResult::Deleted { name })),
            Err(error) if force && error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    targets::each(context, &targets, act, |target, result| match result {
        Some(result) => operate::print(context, target, &result),
        None => Ok(()),
    })
    .await
}

async fn delete(client: &Client, image: &str) -> Result<String, ApiError> {
    let name = named::resolve(client, image).await?;
    client
        .act(Method::DELETE, &path::fill(path::IMAGE, &[&name]))
        .await?;
    Ok(name)
}
