//! `banger vm run`.

use std::io::IsTerminal;
use std::time::Duration;

use banger_protocol::api::exec::ExecRequest;
use banger_protocol::api::path;
use banger_protocol::api::vm::{MainSpec, WaitResult};
use banger_protocol::error::ErrorKind;
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::spec::{self, Machine};
use super::wait::{self, What};
use super::{create, process};
use crate::client::Client;
use crate::commands::Context;
use crate::failure::{Failure, Outcome, printable, tell};
use crate::{completion, output};

/// How long `--rm` waits for the machine to go after its command ended.
const GONE_TIMEOUT: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  banger vm run debian-12                           a login shell in a new machine
  banger vm run --rm debian-12 -- uname -r          one command, and nothing remains
  banger vm run -d --name web registry.example/app  the image's own command, in the background
  banger vm run -m 4G --vcpu 4 -e CI=1 debian-12 -- make test
  tar c src | banger vm run --rm debian-12 -- tar t

A machine is not a command: it runs on when the command has ended, until it is stopped or deleted,
or with --rm is removed then. One that never became ready is kept even so.

Without CMD the image's entrypoint and cmd run; where that is nothing, a shell or an init, a login
shell. Ctrl-C goes to the command; once more leaves it. stdin is forwarded where it is a pipe or a
file, and from a terminal with -i or -t. Exits as the command does; 128 + n where signal n ended
it, 127 where it does not exist, 126 where it is not executable. With --json the last line of
stderr is {\"exit\": …} or {\"error\": …}.";

/// Create a machine and run a command in it
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "banger vm run [OPTIONS] [IMAGE] [--] [CMD]..."
)]
pub struct Run {
    /// Local name, catalog name or any reference, pulled where it is not here
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(completion::images))]
    pub positional: Option<String>,
    #[command(flatten)]
    pub words: spec::Words,
    /// The same as the positional IMAGE
    #[arg(long, value_name = "IMAGE", add = ArgValueCompleter::new(completion::images))]
    image: Option<String>,
    /// Remove the machine when its command ends
    #[arg(long)]
    rm: bool,
    /// Do not stay with it: print its name; `vm start` runs the command again
    #[arg(long, short, conflicts_with_all = ["tty", "interactive"])]
    detach: bool,
    /// Run the command on a terminal
    #[arg(long, short)]
    tty: bool,
    /// Forward stdin also from a terminal
    #[arg(long, short)]
    interactive: bool,
    /// Run CMD through a login shell; without CMD a login shell
    #[arg(long)]
    shell: bool,
    #[command(flatten)]
    machine: Machine,
}

pub async fn run(context: &Context, args: Run) -> Outcome {
    let words = args.words.all()?;
    let plan = process::plan(args.tty, args.interactive, !words.is_empty());
    let command = spec::command(words, args.shell);
    let image = spec::image(args.image, args.positional)?;
    let mut request = args.machine.request(&context.environment, image)?;
    request.ephemeral = args.rm;
    if args.detach {
        request.main = Some(MainSpec {
            command: command.clone(),
        });
    }
    let client = context.client().await?;
    let vm = create::create(context, &client, request).await?;
    if args.detach {
        if context.json {
            output::print_json(&vm)?;
        } else {
            output::print(&format!("{}\n", vm.name))?;
        }
        return Ok(0);
    }
    let name = vm.name.as_str();
    let request = ExecRequest {
        command,
        ..ExecRequest::default()
    };
    let main = path::fill(path::VM_MAIN, &[vm.id.as_str()]);
    let status = process::join(context, &client, name, &main, request, plan).await?;
    if args.rm {
        gone(&client, vm.id.as_str(), name).await?;
    } else if std::io::stderr().is_terminal() && !context.quiet && !context.json {
        tell(&format!(
            "banger: {name} stays: banger vm exec {name}, or banger vm delete {name}\n"
        ));
    }
    process::conclude(context, name, &status)
}

/// Waits until an ephemeral machine is gone. That it takes long is told, and changes no exit code.
async fn gone(client: &Client, id: &str, name: &str) -> Result<(), Failure> {
    let wait = wait::query(id, What::Deleted, GONE_TIMEOUT);
    match client.get::<WaitResult>(&wait).await {
        Ok(_) => Ok(()),
        // Gone before we asked.
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => {
            tell(&format!(
                "banger: {name} is not gone yet: {}\nhint: banger vm delete {name}\n",
                printable(&error.message)
            ));
            Ok(())
        }
    }
}
