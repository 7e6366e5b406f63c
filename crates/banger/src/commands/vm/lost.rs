//! Why a command's end was never heard: what became of its VM, as bangerd tells it.

use std::time::Duration;

use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::api::path;
use banger_protocol::api::vm::{Vm, VmState, WaitResult};
use banger_protocol::error::{ApiError, ErrorKind};
use tokio::signal::unix::SignalKind;

use super::list;
use super::wait::{self, What};
use crate::client::Client;
use crate::failure::Failure;
use crate::signal;

/// How long a VM whose command broke off has to be seen ending: the command's connection may go
/// first.
const END_BOUND: Duration = Duration::from_secs(2);
/// How long bangerd has for its answers.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// The failure to tell instead of a connection that broke. That one stays where bangerd itself is
/// what has gone.
pub async fn explain(client: &Client, vm: &str, broken: ApiError) -> Failure {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal::listen(SignalKind::interrupt()),
        signal::listen(SignalKind::terminate()),
    ) else {
        return broken.into();
    };
    tokio::select! {
        reason = tokio::time::timeout(ANSWER_BOUND, reason(client, vm)) => match reason {
            Ok(Some(reason)) => reason.into(),
            _ => broken.into(),
        },
        () = interrupt.recv() => Failure::Interrupted(libc::SIGINT),
        () = terminate.recv() => Failure::Interrupted(libc::SIGTERM),
    }
}

async fn reason(client: &Client, vm: &str) -> Option<ApiError> {
    let wait = wait::query(vm, What::Stopped, END_BOUND);
    let deleted = || {
        ApiError::new(
            ErrorKind::NotFound,
            format!("VM {vm} was deleted before the command ended"),
        )
    };
    match client.get::<WaitResult>(&wait).await {
        Ok(WaitResult { vm: None, .. }) => Some(deleted()),
        Ok(WaitResult {
            vm: Some(shown), ..
        }) => match shown.failure {
            Some(failure) if shown.state == VmState::Failed => Some(failure),
            _ => Some(
                ApiError::new(
                    ErrorKind::WrongState,
                    format!("VM {} stopped before the command ended", shown.name),
                )
                .hint(format!("banger vm start {}", shown.name)),
            ),
        },
        Err(error) if error.kind == ErrorKind::NotFound => Some(deleted()),
        Err(error) if error.kind == ErrorKind::Timeout => broken_off(client, vm).await,
        Err(_) => None,
    }
}

/// The machine goes on. A bangerd that was started anew knows nothing of the command's former
/// client, and the command may go on, too.
async fn broken_off(client: &Client, vm: &str) -> Option<ApiError> {
    let daemon: DaemonInfo = client.get(path::DAEMON).await.ok()?;
    if daemon.started_at != client.daemon().started_at {
        return None;
    }
    let shown: Vm = client.get(&path::fill(path::VM, &[vm])).await.ok()?;
    let error = ApiError::new(
        ErrorKind::GuestUnreachable,
        format!(
            "VM {} is {}, but the command was broken off: its guest restarted, or its agent gave \
             the command up",
            shown.name,
            list::state(shown.state)
        ),
    );
    Some(error.hint(format!("banger vm logs --console {}", shown.name)))
}
