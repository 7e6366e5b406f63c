//! `banger kernel`.

pub mod delete;
pub mod import;
pub mod list;
pub mod pull;
pub mod show;

use clap::Subcommand;

use super::Context;
use crate::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Pull(pull::Pull),
    Import(import::Import),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::List(args) => list::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Pull(args) => pull::run(context, args).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
    }
}
