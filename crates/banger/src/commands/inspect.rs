//! `banger inspect`.

use banger_protocol::api::image::Image;
use banger_protocol::api::path;
use banger_protocol::api::vm::Vm;
use banger_protocol::error::{ApiError, ErrorKind};
use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::{Context, targets};
use crate::client::Client;
use crate::failure::Outcome;
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger inspect web
  banger inspect debian-12 | jq .config.env";

/// All about machines or images, as JSON
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// Names; of a machine also its id, or a unique beginning of it
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(completion::vms_and_images))]
    names: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    Vm(Box<Vm>),
    Image(Box<Image>),
}

pub async fn run(context: &Context, args: Inspect) -> Outcome {
    let client = context.client().await?;
    let targets = targets::distinct(&args.names);
    let client = &client;
    let find = |name: String| async move { Ok(find(client, &name).await?) };
    targets::each(context, &targets, find, |_, found| {
        output::print_json(&found)
    })
    .await
}

async fn find(client: &Client, name: &str) -> Result<Found, ApiError> {
    let no_vm = match client.get(&path::fill(path::VM, &[name])).await {
        Ok(vm) => return Ok(Found::Vm(vm)),
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::InvalidArgument) => {
            error
        }
        Err(error) => return Err(error),
    };
    match client.get(&path::fill(path::IMAGE, &[name])).await {
        Ok(image) => Ok(Found::Image(image)),
        Err(error) if error.kind == ErrorKind::NotFound => Err(ApiError::new(
            ErrorKind::NotFound,
            format!("there is neither a machine nor an image {name:?}"),
        )),
        Err(_) => Err(no_vm),
    }
}
