//! The commands: one file per verb, each an args struct whose docs are the help, and one function.

pub mod completion;
pub mod daemon;
pub mod doctor;
pub mod image;
pub mod inspect;
pub mod kernel;
pub mod man;
pub mod operation;
pub mod targets;
pub mod version;
pub mod vm;

use clap::Subcommand;

use crate::client::Client;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::progress::Progress;

/// What every command is given.
pub struct Context {
    pub environment: Environment,
    pub json: bool,
    pub quiet: bool,
}

impl Context {
    /// A daemon that answers, started where that is needed.
    ///
    /// # Errors
    /// None can be reached or started.
    pub async fn client(&self) -> Result<Client, Failure> {
        Ok(crate::daemon::ready(&self.environment).await?)
    }

    pub fn progress(&self) -> Progress {
        Progress::new(self.quiet || self.json)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Machines: run, create, start, stop, look into them
    #[command(subcommand, arg_required_else_help = true)]
    Vm(vm::Command),
    /// Images: what machines are made from
    #[command(subcommand, arg_required_else_help = true)]
    Image(image::Command),
    /// Kernels: what machines boot
    #[command(subcommand, arg_required_else_help = true)]
    Kernel(kernel::Command),
    /// The daemon, bangerd
    #[command(subcommand, arg_required_else_help = true)]
    Daemon(daemon::Command),
    /// Long actions, also other clients'
    #[command(subcommand, arg_required_else_help = true)]
    Operation(operation::Command),
    /// Is this host ready, and if not, what to do
    Doctor(doctor::Doctor),
    /// Versions of banger, bangerd and the agent
    Version(version::Version),
    /// Print a completion script for a shell
    Completion(completion::Completion),
    /// Write the manual pages
    Man(man::Man),

    /// Same as `vm run`
    Run(Box<vm::run::Run>),
    /// Running machines; with -a all of them
    Ps(vm::ps::Ps),
    /// Same as `vm exec`
    Exec(vm::exec::Exec),
    /// Same as `vm logs`
    Logs(vm::logs::Logs),
    /// Same as `vm start`
    Start(vm::start::Start),
    /// Same as `vm stop`
    Stop(vm::stop::Stop),
    /// Same as `vm delete`
    Rm(vm::delete::Delete),
    /// Same as `image list`
    Images(image::list::List),
    /// Same as `image delete`
    Rmi(image::delete::Delete),
    /// Same as `image pull`
    Pull(image::pull::Pull),
    /// All about a machine or an image, as JSON
    Inspect(inspect::Inspect),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Vm(command) => vm::run(context, command).await,
        Command::Image(command) => image::run(context, command).await,
        Command::Kernel(command) => kernel::run(context, command).await,
        Command::Daemon(command) => daemon::run(context, command).await,
        Command::Operation(command) => operation::run(context, command).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Version(args) => version::run(context, args).await,
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Run(args) => vm::run::run(context, *args).await,
        Command::Ps(args) => vm::ps::run(context, args).await,
        Command::Exec(args) => vm::exec::run(context, args).await,
        Command::Logs(args) => vm::logs::run(context, args).await,
        Command::Start(args) => vm::start::run(context, args).await,
        Command::Stop(args) => vm::stop::run(context, args).await,
        Command::Rm(args) => vm::delete::run(context, args).await,
        Command::Images(args) => image::list::run(context, args).await,
        Command::Rmi(args) => image::delete::run(context, args).await,
        Command::Pull(args) => image::pull::run(context, args).await,
        Command::Inspect(args) => inspect::run(context, args).await,
    }
}
