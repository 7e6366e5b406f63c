//! `banger kernel show`.

use banger_protocol::api::kernel::Kernel;
use banger_protocol::api::path;
use banger_protocol::name::KernelName;
use banger_protocol::size;
use clap::Args;
use clap_complete::ArgValueCompleter;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger kernel show debian-6.1-cloud
  banger kernel show --json debian-6.1-cloud | jq -r .sha256";

/// Show all about one kernel
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// Its name
    #[arg(value_name = "KERNEL", add = ArgValueCompleter::new(completion::kernels))]
    kernel: KernelName,
}

pub async fn run(context: &Context, args: Show) -> Outcome {
    let client = context.client().await?;
    let kernel: Kernel = client
        .get(&path::fill(path::KERNEL, &[args.kernel.as_str()]))
        .await?;
    if context.json {
        output::print_json(&kernel)?;
    } else {
        output::print(&text(&kernel, OffsetDateTime::now_utc()))?;
    }
    Ok(0)
}

fn text(kernel: &Kernel, now: OffsetDateTime) -> String {
    let imported = output::age(kernel.imported_at, now);
    output::fields(&[
        ("name", kernel.name.to_string()),
        ("version", kernel.version.clone()),
        ("arch", kernel.arch.clone()),
        ("distro", kernel.distro.clone()),
        ("source", kernel.source.clone()),
        ("sha256", kernel.sha256.clone()),
        ("size", size::format(kernel.size_bytes)),
        ("boot modules", kernel.boot_modules.join(" ")),
        ("imported", format!("{imported} ago")),
        (
            "default",
            if kernel.default { "yes" } else { "no" }.to_owned(),
        ),
    ])
}
