//! `banger man`.

use std::io;
use std::path::{Path, PathBuf};

use banger_protocol::error::ErrorKind;
use clap::{Args, ValueHint};

use crate::failure::{Failure, Outcome};
use crate::{cli, manual};

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
    write(&args.out).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
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

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for page in manual::pages(cli::documented())? {
        std::fs::write(directory.join(page.file), page.text)?;
    }
    Ok(())
}
