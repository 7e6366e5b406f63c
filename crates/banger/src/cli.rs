//! The command line: parsed, or turned into help or a failure.
//!
//! A group without a command prints its help to stdout and exits with 0, as docker does. Usage
//! errors exit with 2; a value that is understood but not allowed is an `invalid_argument` like one
//! that bangerd refuses, with the same exit code.

use std::ffi::OsString;
use std::time::Duration;

use banger_protocol::api::daemon::Defaults;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::size;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::client::Client;
use crate::commands::Command;
use crate::daemon;
use crate::environment::Environment;
use crate::failure::{Failure, USAGE, report_error, tell};

const EXAMPLES: &str = "\
Examples:
  banger vm run debian-12 -- uname -r       one command in a new machine
  banger vm run debian-12                   a shell in a new machine
  banger vm exec web -- ps aux              one more command in a running one
  banger doctor                             is this host ready, and if not, what to do

Exit codes: 0 done; 2 usage; 100 to 125 banger's own failures, which begin with 'banger: ' on
stderr; run and exec exit as their command does.";

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
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on stderr; in lists only names
    #[arg(long, short, global = true)]
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
            let failure = failure(&error, json);
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
    let with_defaults = with_defaults(command(), &defaults(environment));
    match parse_with(with_defaults, arguments) {
        Err(again) => again.render().to_string(),
        Ok(_) => error.render().to_string(),
    }
}

/// What a VM gets where neither the user nor the configuration says anything; bangerd's built-in
/// values, shown where no daemon answers.
fn built_in() -> Defaults {
    Defaults {
        image: "debian-12".to_owned(),
        kernel: None,
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 8 << 10,
    }
}

/// All that a daemon may delay a help text.
const PATIENCE: Duration = Duration::from_millis(200);

fn defaults(environment: &Environment) -> Defaults {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()
        .and_then(|runtime| {
            runtime.block_on(async {
                tokio::time::timeout(PATIENCE, async {
                    for socket in daemon::sockets(environment) {
                        if let Ok(client) = Client::greet(&socket).await {
                            return Some(client.daemon().defaults.clone());
                        }
                    }
                    None
                })
                .await
                .ok()
                .flatten()
            })
        });
    asked.unwrap_or_else(built_in)
}

/// Writes the defaults into the help of the flags they belong to.
fn with_defaults(command: clap::Command, defaults: &Defaults) -> clap::Command {
    let values = [
        ("vcpu", defaults.vcpus.to_string()),
        ("memory", size::format(defaults.memory_mib << 20)),
        ("disk_size", size::format(defaults.disk_mib << 20)),
        ("image", defaults.image.clone()),
        ("kernel", defaults.kernel.clone().unwrap_or_default()),
    ];
    let fill = |mut command: clap::Command| {
        for (name, value) in &values {
            let known = command
                .get_arguments()
                .any(|argument| argument.get_id() == name);
            if known && !value.is_empty() {
                command = command.mut_arg(name, |argument| {
                    let help = argument
                        .get_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    argument.help(format!("{help} [default: {value}]"))
                });
            }
        }
        command
    };
    command
        .mut_subcommand("run", fill)
        .mut_subcommand("vm", |vm| {
            vm.mut_subcommand("run", fill)
                .mut_subcommand("create", fill)
        })
}

/// The flag as it would have been parsed, for a command line that could not be.
fn wants_json(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .skip(1)
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json")
}

fn failure(error: &clap::Error, json: bool) -> Failure {
    use clap::error::ErrorKind as Kind;
    if let Kind::ValueValidation | Kind::InvalidValue = error.kind() {
        return refused_value(error).into();
    }
    let rendered = error.render().to_string();
    let text = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    if json {
        let message = text.lines().next().unwrap_or_default();
        report_error(&ApiError::new(ErrorKind::InvalidArgument, message), true);
    } else {
        tell(&format!("banger: {text}"));
    }
    Failure::Told(USAGE)
}

fn refused_value(error: &clap::Error) -> ApiError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let flag = argument.split(' ').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    let mut api_error = match std::error::Error::source(error) {
        Some(reason) => ApiError::new(
            ErrorKind::InvalidArgument,
            format!("{value:?} will not do for {flag}: {reason}"),
        ),
        None => ApiError::new(
            ErrorKind::InvalidArgument,
            format!("{value:?} will not do for {flag}"),
        ),
    };
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        api_error = api_error.hint(format!("write one of: {}", valid.join(", ")));
    }
    api_error
}

#[cfg(test)]
mod tests;
