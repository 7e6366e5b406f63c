//! The command line: parsed, or turned into help or a failure.
//!
//! A group without a command prints its help to stdout and exits with 0, as docker does. Usage
//! errors exit with 2; a value that is understood but not allowed is an `invalid_argument` like one
//! that bangerd refuses, with the same exit code.

mod defaults;
mod refusal;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;
use crate::environment::Environment;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  banger vm run debian-12 -- uname -r       one command in a new machine
  banger vm run debian-12                   a shell in a new machine
  banger vm exec web -- ps aux              one more command in a running one
  banger doctor                             is this host ready, and if not, what to do

Exit codes: 0 done; 2 usage; 100 to 125 banger's own failures, which begin with 'banger: ' on
stderr; run and exec exit as their command does.

Environment: BANGER_ROOT=DIR keeps everything below one directory, apart from all other bangers.";

/// A real Linux machine of its own in one command.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    about,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    infer_long_args = false
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Global {
    /// Print the API's own JSON on stdout; errors as JSON on stderr
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// No progress on stderr; in lists only names
    #[arg(long, short, global = true, display_order = 901)]
    pub quiet: bool,
}

/// What became of the command line.
pub enum Parsed {
    Run(Box<Cli>),
    /// Help or a version.
    Print(String),
    Failed {
        json: bool,
        failure: Failure,
    },
}

/// The whole command tree.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The command tree with the defaults that hold where nothing is configured: for the manual.
pub fn documented() -> clap::Command {
    defaults::write_into(command(), &defaults::built_in())
}

/// Parses the arguments, of which the first is the program's name.
pub fn parse(arguments: &[OsString], environment: &Environment) -> Parsed {
    let error = match parse_with(command(), arguments) {
        Ok(cli) => return Parsed::Run(Box::new(cli)),
        Err(error) => error,
    };
    use clap::error::ErrorKind as Kind;
    match error.kind() {
        Kind::DisplayHelp | Kind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Parsed::Print(help(arguments, environment, &error))
        }
        Kind::DisplayVersion => Parsed::Print(error.render().to_string()),
        _ => {
            let json = wants_json(arguments);
            let failure = refusal::failure(&error, json);
            Parsed::Failed { json, failure }
        }
    }
}

fn parse_with(command: clap::Command, arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut matches = command.try_get_matches_from(arguments)?;
    Cli::from_arg_matches_mut(&mut matches)
}

/// The help asked for, once more with the defaults of this host's daemon in it.
fn help(arguments: &[OsString], environment: &Environment, error: &clap::Error) -> String {
    let defaults = defaults::in_force(environment);
    match parse_with(defaults::write_into(command(), &defaults), arguments) {
        Err(again) => again.render().to_string(),
        Ok(_) => error.render().to_string(),
    }
}

/// The flag as it would have been parsed, for a command line that could not be.
fn wants_json(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .skip(1)
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests;
