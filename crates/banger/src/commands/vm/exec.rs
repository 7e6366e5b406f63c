//! `banger vm exec`.

use banger_protocol::api::exec::ExecRequest;
use banger_protocol::api::path;
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{process, spec};
use crate::commands::{Context, targets};
use crate::completion;
use crate::failure::Outcome;

const EXAMPLES: &str = "\
Examples:
  banger vm exec web -- ps aux
  echo hi | banger vm exec web -- cat
  banger vm exec web                        a login shell
  banger vm exec -t -u postgres db -- psql
  banger vm exec --shell web 'cat /etc/*release | head -1'

Exits as the command does, like `banger vm run`. stdin is forwarded where it is a pipe or a file:
in a loop that reads lines, write `banger vm exec VM -- CMD </dev/null`.";

/// Run one more command in a running machine
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "banger vm exec [OPTIONS] <VM> [--] [CMD]..."
)]
pub struct Exec {
    /// Name, id or unique beginning of the id
    #[arg(value_name = "VM", value_parser = targets::named, add = ArgValueCompleter::new(completion::vms))]
    pub vm: String,
    #[command(flatten)]
    pub words: spec::Words,
    /// Run the command on a terminal
    #[arg(long, short)]
    tty: bool,
    /// Forward stdin also from a terminal
    #[arg(long, short)]
    interactive: bool,
    /// Run CMD through a login shell
    #[arg(long)]
    shell: bool,
    #[command(flatten)]
    process: spec::Process,
}

pub async fn run(context: &Context, args: Exec) -> Outcome {
    let words = args.words.all()?;
    let has_command = !words.is_empty();
    let plan = process::plan(args.tty, args.interactive, has_command);
    let request = ExecRequest {
        env: args.process.variables(&context.environment)?,
        workdir: args.process.directory()?,
        user: args.process.user,
        // No command is a login shell already.
        command: spec::command(words, args.shell && has_command),
        ..ExecRequest::default()
    };
    let client = context.client().await?;
    let path = path::fill(path::VM_EXEC, &[&args.vm]);
    let status = process::join(context, &client, &args.vm, &path, request, plan).await?;
    process::conclude(context, &args.vm, &status)
}
