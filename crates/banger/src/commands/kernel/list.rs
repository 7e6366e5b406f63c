//! `banger kernel list`.

use banger_protocol::api::kernel::KernelList;
use banger_protocol::api::path;
use banger_protocol::size;
use clap::Args;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  banger kernel list
  banger kernel list --available";

/// List kernels
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {
    /// Those that could be pulled, instead of those that are here
    #[arg(long)]
    available: bool,
}

pub async fn run(context: &Context, args: List) -> Outcome {
    let client = context.client().await?;
    let list: KernelList = client.get(path::KERNELS).await?;
    if context.json {
        output::print_json(&list)?;
        return Ok(0);
    }
    let text = match (args.available, context.quiet) {
        (false, false) => here(&list, OffsetDateTime::now_utc()),
        (true, false) => available(&list),
        (false, true) => list
            .kernels
            .iter()
            .map(|kernel| format!("{}\n", kernel.name))
            .collect(),
        (true, true) => list
            .available
            .iter()
            .map(|kernel| format!("{}\n", kernel.name))
            .collect(),
    };
    output::print(&text)?;
    Ok(0)
}

fn here(list: &KernelList, now: OffsetDateTime) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("VERSION", Align::Left),
        ("ARCH", Align::Left),
        ("SOURCE", Align::Left),
        ("SIZE", Align::Right),
        ("DEFAULT", Align::Left),
        ("IMPORTED", Align::Left),
    ]);
    for kernel in &list.kernels {
        table.row([
            &kernel.name,
            &kernel.version,
            &kernel.arch,
            &origin(&kernel.source),
            &size::format(kernel.size_bytes),
            &if kernel.default { "yes" } else { "-" },
            &format_args!("{} ago", output::age(kernel.imported_at, now)),
        ]);
    }
    table.render()
}

/// The source without the digest behind it, which `kernel show` has.
fn origin(source: &str) -> &str {
    source
        .split_once(" sha256:")
        .map_or(source, |(origin, _)| origin)
}

fn available(list: &KernelList) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("DESCRIPTION", Align::Left),
    ]);
    for kernel in &list.available {
        table.row([
            &kernel.name,
            &if kernel.pulled { "pulled" } else { "available" },
            &kernel.description,
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::kernel::{AvailableKernel, Kernel};

    #[test]
    fn the_tables() {
        let imported_at = time::macros::datetime!(2026-01-01 00:00 UTC);
        let list = KernelList {
            kernels: vec![Kernel {
                name: "debian-6.1-cloud".parse().unwrap(),
                version: "6.1.0-41-cloud-amd64".into(),
                arch: "x86_64".into(),
                distro: "debian".into(),
                source: format!(
                    "apt:linux-image-6.1.0-41-cloud-amd64=6.1.158-1 sha256:{}",
                    "1".repeat(64)
                ),
                sha256: "0".repeat(64),
                size_bytes: 60 << 20,
                boot_modules: Vec::new(),
                imported_at,
                default: true,
            }],
            available: vec![AvailableKernel {
                name: "debian-6.1-cloud".parse().unwrap(),
                description: "Debian's cloud kernel".into(),
                pulled: true,
            }],
        };
        let now = imported_at + time::Duration::hours(2);
        insta::assert_snapshot!(format!("{}\n{}", here(&list, now), available(&list)));
    }
}
