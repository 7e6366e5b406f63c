//! `banger vm`.

pub mod create;
pub mod delete;
pub mod exec;
pub mod health;
pub mod list;
pub mod logs;
mod lost;
mod process;
pub mod ps;
pub mod run;
pub mod show;
pub mod spec;
pub mod start;
pub mod stop;
pub mod wait;

use clap::Subcommand;

use super::Context;
use crate::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<run::Run>),
    Create(Box<create::Create>),
    Start(start::Start),
    Stop(stop::Stop),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Exec(exec::Exec),
    Logs(logs::Logs),
    Health(health::Health),
    Wait(wait::Wait),
}

pub async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(context, *args).await,
        Command::Create(args) => create::run(context, *args).await,
        Command::Start(args) => start::run(context, args).await,
        Command::Stop(args) => stop::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::List(args) => list::run(context, &args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Exec(args) => exec::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Health(args) => health::run(context, args).await,
        Command::Wait(args) => wait::run(context, args).await,
    }
}

/// A VM for tests.
#[cfg(test)]
pub fn example(state: banger_protocol::api::vm::VmState) -> banger_protocol::api::vm::Vm {
    banger_protocol::api::vm::Vm {
        id: "0123456789ab".parse().unwrap(),
        name: "calm-otter".parse().unwrap(),
        state,
        failure: None,
        note: None,
        image: "debian-12".into(),
        image_digest: format!("sha256:{}", "0".repeat(64)),
        kernel: "debian-6.1-cloud".parse().unwrap(),
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 8 << 10,
        disk_used_bytes: 3 << 20,
        init: None,
        ephemeral: false,
        main: None,
        created_at: time::macros::datetime!(2026-01-01 00:00 UTC),
        started_at: None,
        machine: None,
        timings: Vec::new(),
    }
}
