//! `banger image list`.

use banger_protocol::api::image::{Image, ImageList};
use banger_protocol::api::path;
use banger_protocol::size;
use clap::Args;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::failure::Outcome;
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  banger image list
  banger images -q                 only names";

/// List images
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {}

pub async fn run(context: &Context, _args: List) -> Outcome {
    let client = context.client().await?;
    let list: ImageList = client.get(path::IMAGES).await?;
    if context.json {
        output::print_json(&list)?;
    } else if context.quiet {
        let names: String = list
            .images
            .iter()
            .map(|image| format!("{}\n", image.name))
            .collect();
        output::print(&names)?;
    } else {
        output::print(&table(&list.images, OffsetDateTime::now_utc()))?;
    }
    Ok(0)
}

fn table(images: &[Image], now: OffsetDateTime) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SOURCE", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("KERNEL", Align::Left),
        ("VMS", Align::Right),
        ("CREATED", Align::Left),
    ]);
    for image in images {
        let kernel = image.kernel.as_ref().map_or("-", |kernel| kernel.as_str());
        table.row([
            &image.name,
            &image.source,
            &output::short_digest(&image.digest),
            &size::format(image.size_bytes),
            &kernel,
            &image.used_by.len(),
            &format_args!("{} ago", output::age(image.created_at, now)),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn the_table() {
        let debian = Image {
            kernel: Some("debian-6.1-cloud".parse().unwrap()),
            used_by: vec!["web".into(), "db".into()],
            ..example("debian-12", "catalog:debian-12")
        };
        let app = example("app-1", "ghcr.io/team/app:1");
        let now = app.created_at + time::Duration::days(3);
        insta::assert_snapshot!(table(&[debian, app], now));
    }
}
