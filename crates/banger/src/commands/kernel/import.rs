//! `banger kernel import`.

use std::path::PathBuf;

use banger_protocol::api::path;
use banger_protocol::error::ErrorKind;
use banger_protocol::name::KernelName;
use clap::{Args, ValueHint};

use super::pull;
use crate::archive;
use crate::client::{upload, with_query};
use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::operate;

const EXAMPLES: &str = "\
Examples:
  banger kernel import mine --from ./out          vmlinux or bzImage, and lib/modules/VERSION
  banger kernel import mine --from arch/x86/boot/bzImage

The files are read as you and streamed to bangerd.";

/// Take a kernel of your own
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Import {
    /// Name to give it
    #[arg(value_name = "NAME")]
    name: KernelName,
    /// A directory with a kernel and its modules, or a kernel image
    #[arg(long, value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    from: PathBuf,
    /// Which distribution it is of, for the record
    #[arg(long, value_name = "NAME")]
    distro: Option<String>,
    /// Replace a kernel of that name
    #[arg(long)]
    force: bool,
}

pub async fn run(context: &Context, args: Import) -> Outcome {
    let from = archive::locate(&args.from)?;
    if !from.is_dir() && !from.is_file() {
        return Err(Failure::new(
            ErrorKind::InvalidArgument,
            format!("{} is neither a file nor a directory", args.from.display()),
        ));
    }
    let path = with_query(
        path::KERNEL_IMPORT,
        &[
            ("name", Some(args.name.into())),
            ("distro", args.distro),
            ("force", args.force.then(|| "true".to_owned())),
        ],
    );
    let client = context.client().await?;
    let (body, sent) = upload(move |out| {
        if from.is_dir() {
            archive::directory(&from, |_| true, out)
        } else {
            archive::single_file(&from, out)
        }
    });
    let shown = context.progress().operation(None);
    let operation = operate::operate(&client, client.upload(&path, body), shown)
        .await
        .map_err(|failure| sent.failure().map_or(failure, Failure::from))?;
    pull::print(context, &operate::result(operation)?)?;
    Ok(0)
}
