//! `banger vm list`.

use banger_protocol::api::path;
use banger_protocol::api::vm::{MainState, Vm, VmList, VmState};
use banger_protocol::size;
use clap::Args;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  banger vm list
  banger vm list -q                    only names
  banger vm list --json | jq -r '.vms[] | select(.state == \"failed\").name'

Lists all machines; `banger ps` lists running ones, `banger ps -a` all.";

/// List machines
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {
    /// Lists all in any case; for those who are used to `ps -a`
    #[arg(long, short, hide = true)]
    all: bool,
}

pub async fn run(context: &Context, _args: &List) -> Outcome {
    let client = context.client().await?;
    let list: VmList = client.get(path::VMS).await?;
    print(context, &list)?;
    Ok(0)
}

pub fn print(context: &Context, list: &VmList) -> Result<(), Failure> {
    if context.json {
        output::print_json(list)
    } else if context.quiet {
        let names: String = list.vms.iter().map(|vm| format!("{}\n", vm.name)).collect();
        output::print(&names)
    } else {
        output::print(&table(&list.vms, OffsetDateTime::now_utc()))
    }
}

fn table(vms: &[Vm], now: OffsetDateTime) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("IMAGE", Align::Left),
        ("VCPUS", Align::Right),
        ("MEMORY", Align::Right),
        ("DISK", Align::Right),
        ("MAIN", Align::Left),
        ("CREATED", Align::Left),
    ]);
    for vm in vms {
        table.row([
            vm.name.to_string(),
            vm.id.to_string(),
            state(vm.state).to_owned(),
            vm.image.clone(),
            vm.vcpus.to_string(),
            size::format(vm.memory_mib.saturating_mul(1 << 20)),
            format!(
                "{} / {}",
                size::format(vm.disk_used_bytes),
                size::format(vm.disk_mib.saturating_mul(1 << 20))
            ),
            main(vm),
            format!("{} ago", output::age(vm.created_at, now)),
        ]);
    }
    table.render()
}

/// The state's name in the API.
pub fn state(state: VmState) -> &'static str {
    match state {
        VmState::Created => "created",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Unresponsive => "unresponsive",
        VmState::Stopping => "stopping",
        VmState::Stopped => "stopped",
        VmState::Failed => "failed",
        VmState::Deleting => "deleting",
    }
}

/// What became of `main`.
pub fn main(vm: &Vm) -> String {
    match vm.main.as_ref().map(|main| (main.state, main.exit_code)) {
        None => "-".to_owned(),
        Some((MainState::Waiting, _)) => "waiting".to_owned(),
        Some((MainState::Running, _)) => "running".to_owned(),
        Some((MainState::Exited, None)) => "exited".to_owned(),
        Some((MainState::Exited, Some(code))) => format!("exited ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::vm::MainProcess;

    #[test]
    fn the_table() {
        let running = super::super::example(VmState::Running);
        let exited = Vm {
            name: "db".parse().unwrap(),
            disk_used_bytes: 1536 << 20,
            main: Some(MainProcess {
                command: vec!["true".into()],
                state: MainState::Exited,
                exit_code: Some(3),
                persistent: true,
            }),
            ..super::super::example(VmState::Stopped)
        };
        let now = running.created_at + time::Duration::minutes(3);
        insta::assert_snapshot!(table(&[running, exited], now));
    }

    #[test]
    fn states_are_named_as_in_the_api() {
        for value in [
            VmState::Created,
            VmState::Starting,
            VmState::Running,
            VmState::Unresponsive,
            VmState::Stopping,
            VmState::Stopped,
            VmState::Failed,
            VmState::Deleting,
        ] {
            assert_eq!(serde_json::to_value(value).unwrap(), state(value));
        }
    }
}
