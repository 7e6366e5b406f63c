//! `banger vm list`.

use std::borrow::Cow;

use banger_protocol::api::path;
use banger_protocol::api::vm::{MainState, VmList, VmState};
use banger_protocol::size;
use clap::Args;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::client;
use crate::commands::Context;
use crate::failure::Outcome;
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

/// What a list shows of a VM: borrowed from bangerd's answer, which may hold thousands.
#[derive(Debug, Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    state: VmState,
    #[serde(borrow)]
    image: Cow<'a, str>,
    vcpus: u32,
    memory_mib: u64,
    disk_mib: u64,
    disk_used_bytes: u64,
    #[serde(default)]
    main: Option<ListedMain>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct ListedMain {
    state: MainState,
    #[serde(default)]
    exit_code: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct ListedVms<'a> {
    #[serde(borrow)]
    vms: Vec<Listed<'a>>,
}

pub async fn run(context: &Context, _args: &List) -> Outcome {
    show(context, |_| true).await
}

/// Lists the VMs in a wanted state.
pub async fn show(context: &Context, wanted: impl Fn(VmState) -> bool) -> Outcome {
    let client = context.client().await?;
    let answer = client.get_bytes(path::VMS).await?;
    if context.json {
        let mut list: VmList = client::decode(&answer)?;
        list.vms.retain(|vm| wanted(vm.state));
        output::print_json(&list)?;
        return Ok(0);
    }
    let mut list: ListedVms<'_> = client::decode(&answer)?;
    list.vms.retain(|vm| wanted(vm.state));
    let text = if context.quiet {
        list.vms.iter().map(|vm| format!("{}\n", vm.name)).collect()
    } else {
        table(&list.vms, OffsetDateTime::now_utc())
    };
    output::print(&text)?;
    Ok(0)
}

fn table(vms: &[Listed<'_>], now: OffsetDateTime) -> String {
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
        let main = vm.main.as_ref().map_or(Cow::Borrowed("-"), |main| {
            main_state(main.state, main.exit_code)
        });
        table.row([
            &vm.name,
            &vm.id,
            &state(vm.state),
            &vm.image,
            &vm.vcpus,
            &size::format(vm.memory_mib.saturating_mul(1 << 20)),
            &format_args!(
                "{} / {}",
                size::format(vm.disk_used_bytes),
                size::format(vm.disk_mib.saturating_mul(1 << 20))
            ),
            &main,
            &format_args!("{} ago", output::age(vm.created_at, now)),
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
pub fn main_state(state: MainState, exit_code: Option<i32>) -> Cow<'static, str> {
    match (state, exit_code) {
        (MainState::Waiting, _) => "waiting".into(),
        (MainState::Running, _) => "running".into(),
        (MainState::Exited, None) => "exited".into(),
        (MainState::Exited, Some(code)) => format!("exited ({code})").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::vm::{MainProcess, Vm};

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
        let answer = serde_json::to_vec(&VmList {
            vms: vec![running, exited],
        })
        .unwrap();
        let list: ListedVms<'_> = serde_json::from_slice(&answer).unwrap();
        insta::assert_snapshot!(table(&list.vms, now));
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
