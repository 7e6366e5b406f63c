//! `banger completion`.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::environment::COMPLETION_VARIABLE;
use crate::failure::{Failure, Outcome};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  source <(banger completion bash)                                   in ~/.bashrc
  source <(banger completion zsh)                                    in ~/.zshrc
  banger completion fish > ~/.config/fish/completions/banger.fish

It also completes names of machines, images and kernels, where bangerd runs.";

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(args: &Completion) -> Outcome {
    let completer: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer
        .write_registration(
            COMPLETION_VARIABLE,
            "banger",
            "banger",
            "banger",
            &mut script,
        )
        .map_err(|error| Failure::output(&error))?;
    output::print_bytes(&script)?;
    Ok(0)
}
