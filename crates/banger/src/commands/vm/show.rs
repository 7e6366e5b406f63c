//! `banger vm show`.

use banger_protocol::api::path;
use banger_protocol::api::vm::{InitChoice, Vm};
use banger_protocol::size;
use clap::Args;
use clap_complete::ArgValueCompleter;
use time::OffsetDateTime;

use super::list;
use crate::commands::{Context, targets};
use crate::completion;
use crate::failure::Outcome;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger vm show web
  banger vm show --json web | jq .timings";

/// Show all about one machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// Name, id or unique beginning of the id
    #[arg(value_name = "VM", value_parser = targets::named, add = ArgValueCompleter::new(completion::vms))]
    vm: String,
}

pub async fn run(context: &Context, args: Show) -> Outcome {
    let client = context.client().await?;
    let vm: Vm = client.get(&path::fill(path::VM, &[&args.vm])).await?;
    if context.json {
        output::print_json(&vm)?;
    } else {
        output::print(&text(&vm, OffsetDateTime::now_utc()))?;
    }
    Ok(0)
}

fn text(vm: &Vm, now: OffsetDateTime) -> String {
    let mut lines = vec![
        ("name", vm.name.to_string()),
        ("id", vm.id.to_string()),
        ("state", list::state(vm.state).to_owned()),
    ];
    if let Some(failure) = &vm.failure {
        lines.push(("failure", failure.message.clone()));
        lines.extend(failure.hint.iter().map(|hint| ("hint", hint.clone())));
    }
    lines.extend(vm.note.iter().map(|note| ("note", note.clone())));
    lines.extend([
        ("image", format!("{} ({})", vm.image, vm.image_digest)),
        ("kernel", vm.kernel.to_string()),
        ("vcpus", vm.vcpus.to_string()),
        (
            "memory",
            size::format(vm.memory_mib.saturating_mul(1 << 20)),
        ),
        (
            "disk",
            format!(
                "{}, of which {} are in use",
                size::format(vm.disk_mib.saturating_mul(1 << 20)),
                size::format(vm.disk_used_bytes)
            ),
        ),
    ]);
    lines.extend(vm.init.map(|init| {
        let text = match init {
            InitChoice::Agent => "agent",
            InitChoice::Image => "image",
        };
        ("init", text.to_owned())
    }));
    if let Some(main) = &vm.main {
        let words: Vec<_> = main
            .command
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        lines.push((
            "main",
            format!(
                "{}: {}",
                list::main_state(main.state, main.exit_code),
                words.join(" ")
            ),
        ));
    }
    if vm.ephemeral {
        lines.push(("ephemeral", "it is removed when main ends".to_owned()));
    }
    if let Some(machine) = &vm.machine {
        lines.push((
            "machine",
            format!(
                "{} {} ({}), process {}, agent generation {}",
                machine.vmm,
                machine.vmm_version,
                machine.accelerator,
                machine.pid,
                machine.agent_generation
            ),
        ));
    }
    lines.push((
        "created",
        format!("{} ago", output::age(vm.created_at, now)),
    ));
    lines.extend(
        vm.started_at
            .map(|then| ("started", format!("{} ago", output::age(then, now)))),
    );
    if !vm.timings.is_empty() {
        let phases: Vec<String> = vm
            .timings
            .iter()
            .map(|timing| format!("{} {:.0} ms", timing.phase, timing.ms))
            .collect();
        lines.push(("start", phases.join(", ")));
    }
    output::fields(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::vm::{MainProcess, MainState, Timing, VmMachine, VmState};
    use banger_protocol::error::{ApiError, ErrorKind};

    #[test]
    fn everything_there_is_to_say() {
        let plain = super::super::example(VmState::Created);
        let now = plain.created_at + time::Duration::hours(5);
        let vm = Vm {
            failure: Some(ApiError::new(ErrorKind::BootFailed, "it did not boot").hint("look")),
            note: Some("a note".into()),
            init: Some(InitChoice::Agent),
            main: Some(MainProcess {
                command: vec!["sleep".into(), "inf\x1b".into()],
                state: MainState::Running,
                exit_code: None,
                persistent: true,
            }),
            ephemeral: true,
            machine: Some(VmMachine {
                vmm: "qemu".into(),
                vmm_version: "10.0.2".into(),
                accelerator: "tcg".into(),
                pid: 7,
                agent_generation: 1,
            }),
            started_at: Some(plain.created_at + time::Duration::hours(1)),
            timings: vec![
                Timing {
                    phase: "vmm".into(),
                    ms: 12.4,
                },
                Timing {
                    phase: "agent".into(),
                    ms: 900.0,
                },
            ],
            ..super::super::example(VmState::Failed)
        };
        insta::assert_snapshot!(format!("{}\n{}", text(&plain, now), text(&vm, now)));
    }
}
