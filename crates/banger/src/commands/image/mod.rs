//! `banger image`.

pub mod delete;
pub mod list;
mod named;
pub mod prune;
pub mod pull;
pub mod show;

use clap::Subcommand;

use super::Context;
use crate::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    Pull(pull::Pull),
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
    Prune(prune::Prune),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Pull(args) => pull::run(context, args).await,
        Command::List(args) => list::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
    }
}

/// An image for tests.
#[cfg(test)]
pub fn example(name: &str, source: &str) -> banger_protocol::api::image::Image {
    banger_protocol::api::image::Image {
        name: name.parse().unwrap(),
        source: source.into(),
        digest: format!("sha256:{}", "1".repeat(64)),
        base_digest: format!("sha256:{}", "2".repeat(64)),
        size_bytes: 148 << 20,
        created_at: time::macros::datetime!(2026-01-01 00:00 UTC),
        kernel: None,
        config: Default::default(),
        used_by: Vec::new(),
    }
}
