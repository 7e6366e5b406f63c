//! `banger operation`.

pub mod cancel;
pub mod follow;
pub mod list;
pub mod show;

use clap::Subcommand;

use super::Context;
use crate::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Follow(follow::Follow),
    Cancel(cancel::Cancel),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::List(args) => list::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Follow(args) => follow::run(context, args).await,
        Command::Cancel(args) => cancel::run(context, args).await,
    }
}
