//! `banger daemon`.

pub mod start;
pub mod status;
pub mod stop;

use clap::Subcommand;

use super::Context;
use crate::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    Start(start::Start),
    Stop(stop::Stop),
    Status(status::Status),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Start(args) => start::run(context, args).await,
        Command::Stop(args) => stop::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
    }
}
