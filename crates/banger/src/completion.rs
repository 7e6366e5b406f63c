//! Names for the shell's completion.
//!
//! Only a daemon that already runs is asked, and only for a moment: pressing Tab starts nothing and
//! never waits long.

use std::ffi::OsStr;
use std::time::Duration;

use banger_protocol::api::image::ImageList;
use banger_protocol::api::kernel::KernelList;
use banger_protocol::api::operation::OperationList;
use banger_protocol::api::path;
use banger_protocol::api::vm::VmList;
use clap_complete::CompletionCandidate;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::daemon;
use crate::environment::{COMPLETION_VARIABLE, Environment};
use crate::failure::printable;

/// All that a press of Tab may cost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Answers the shell and ends the process, where the shell asked.
pub fn answer_if_asked() {
    clap_complete::CompleteEnv::with_factory(crate::cli::command)
        .var(COMPLETION_VARIABLE)
        .complete();
}

/// VMs by name.
pub fn vms(current: &OsStr) -> Vec<CompletionCandidate> {
    matching(
        current,
        ask::<VmList>(path::VMS).into_iter().flat_map(|list| {
            list.vms
                .into_iter()
                .map(|vm| (String::from(vm.name), vm.image))
        }),
    )
}

/// Images by local name.
pub fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    matching(
        current,
        ask::<ImageList>(path::IMAGES).into_iter().flat_map(|list| {
            list.images
                .into_iter()
                .map(|image| (String::from(image.name), image.source))
        }),
    )
}

/// VMs, then images.
pub fn vms_and_images(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut names = vms(current);
    names.extend(images(current));
    names
}

/// Kernels that are here.
pub fn kernels(current: &OsStr) -> Vec<CompletionCandidate> {
    matching(
        current,
        ask::<KernelList>(path::KERNELS)
            .into_iter()
            .flat_map(|list| {
                list.kernels
                    .into_iter()
                    .map(|kernel| (String::from(kernel.name), kernel.version))
            }),
    )
}

/// Kernels that could be pulled.
pub fn available_kernels(current: &OsStr) -> Vec<CompletionCandidate> {
    matching(
        current,
        ask::<KernelList>(path::KERNELS)
            .into_iter()
            .flat_map(|list| {
                list.available
                    .into_iter()
                    .map(|kernel| (String::from(kernel.name), kernel.description))
            }),
    )
}

/// Operations by id.
pub fn operations(current: &OsStr) -> Vec<CompletionCandidate> {
    matching(
        current,
        ask::<OperationList>(path::OPERATIONS)
            .into_iter()
            .flat_map(|list| {
                list.operations
                    .into_iter()
                    .map(|operation| (String::from(operation.id), operation.subject))
            }),
    )
}

fn matching(
    current: &OsStr,
    names: impl Iterator<Item = (String, String)>,
) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    names
        .filter(|(name, _)| name.starts_with(&*current))
        .map(|(name, help)| CompletionCandidate::new(name).help(Some(printable(help).into())))
        .collect()
}

fn ask<T: DeserializeOwned>(path: &str) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, async {
            let environment = Environment::of_this_process();
            for socket in daemon::sockets(&environment) {
                if let Ok(client) = Client::greet(&socket).await {
                    return client.get(path).await.ok();
                }
            }
            None
        })
        .await
        .ok()
        .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_like_it_is_offered() {
        let names = [("web", "a"), ("wet", "b"), ("db", "c")]
            .map(|(name, help)| (name.to_owned(), help.to_owned()));
        let found = matching(OsStr::new("we"), names.into_iter());
        let found: Vec<&OsStr> = found.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(found, ["web", "wet"]);
    }
}
