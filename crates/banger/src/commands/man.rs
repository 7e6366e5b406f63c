//! `banger man`.

use std::path::PathBuf;

use banger_protocol::error::ErrorKind;
use clap::{Args, ValueHint};

use crate::cli;
use crate::failure::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  banger man --out ~/.local/share/man/man1";

/// Write the manual pages, one per command
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Man {
    /// Directory to write to, made where it does not exist
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
}

pub fn run(args: &Man) -> Outcome {
    std::fs::create_dir_all(&args.out)
        .and_then(|()| clap_mangen::generate_to(cli::documented(), &args.out))
        .map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
                _ => ErrorKind::InvalidArgument,
            };
            Failure::new(
                kind,
                format!(
                    "cannot write manual pages to {}: {error}",
                    args.out.display()
                ),
            )
        })?;
    Ok(0)
}
