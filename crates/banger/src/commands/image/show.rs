//! `banger image show`.

use banger_protocol::api::image::Image;
use banger_protocol::api::path;
use banger_protocol::size;
use clap::Args;
use clap_complete::ArgValueCompleter;
use time::OffsetDateTime;

use super::named;
use crate::commands::Context;
use crate::failure::Outcome;
use crate::{completion, output};

const EXAMPLES: &str = "\
Examples:
  banger image show debian-12
  banger image show --json debian:bookworm | jq .config";

/// Show all about one image
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// Local name, or what it was pulled as
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(completion::images))]
    image: String,
}

pub async fn run(context: &Context, args: Show) -> Outcome {
    let client = context.client().await?;
    let name = named::resolve(&client, &args.image).await?;
    let image: Image = client.get(&path::fill(path::IMAGE, &[&name])).await?;
    if context.json {
        output::print_json(&image)?;
    } else {
        output::print(&text(&image, OffsetDateTime::now_utc()))?;
    }
    Ok(0)
}

fn text(image: &Image, now: OffsetDateTime) -> String {
    let config = &image.config;
    let lines = [
        ("name", image.name.to_string()),
        ("source", image.source.clone()),
        ("digest", image.digest.clone()),
        ("base", image.base_digest.clone()),
        ("size", size::format(image.size_bytes)),
        (
            "created",
            format!("{} ago", output::age(image.created_at, now)),
        ),
        (
            "kernel",
            image
                .kernel
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        ("entrypoint", config.entrypoint.join(" ")),
        ("cmd", config.cmd.join(" ")),
        ("env", config.env.join(" ")),
        ("user", config.user.clone()),
        ("workdir", config.workdir.clone()),
        ("volumes", config.volumes.join(" ")),
        ("stop signal", config.stop_signal.clone()),
        ("used by", image.used_by.join(" ")),
    ];
    let said: Vec<(&str, String)> = lines
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    output::fields(&said)
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn what_an_image_does_not_say_is_left_out() {
        let mut image = example("debian-12", "catalog:debian-12");
        image.config.cmd = vec!["bash".into()];
        let now = image.created_at + time::Duration::days(3);
        let text = text(&image, now);
        assert!(text.contains("cmd      bash\n"), "{text}");
        assert!(!text.contains("entrypoint"), "{text}");
    }
}
