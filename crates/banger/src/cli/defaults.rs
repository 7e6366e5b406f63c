//! The defaults of a new machine, in the help of the flags they belong to.

use std::time::Duration;

use banger_protocol::api::daemon::Defaults;
use banger_protocol::size;

use crate::client::Client;
use crate::daemon;
use crate::environment::Environment;

/// What a VM gets where neither the user nor the configuration says anything; bangerd's built-in
/// values, shown where no daemon answers.
pub fn built_in() -> Defaults {
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

/// The defaults of the daemon that answers, else the built-in ones. Starts nothing.
pub fn in_force(environment: &Environment) -> Defaults {
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
pub fn write_into(command: clap::Command, defaults: &Defaults) -> clap::Command {
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
