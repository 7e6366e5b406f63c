//! Why a command's end was never heard: what became of its VM, as bangerd tells it.

use std::time::Duration;

use banger_protocol::api::path;
use banger_protocol::api::vm::{VmState, WaitResult};
use banger_protocol::error::{ApiError, ErrorKind};

use crate::client::{Client, with_query};
use crate::duration;
use crate::failure::Failure;

/// How long a VM whose command broke off has to be seen ending: the command's connection may go
/// first.
const END_BOUND: Duration = Duration::from_secs(2);
/// How long bangerd has for its answer.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// The failure to tell instead of a connection that broke. That one stays where bangerd itself is
/// what has gone.
pub async fn explain(client: &Client, vm: &str, broken: ApiError) -> Failure {
    let wait = with_query(
        &path::fill(path::VM_WAIT, &[vm]),
        &[
            ("for", Some("stopped".to_owned())),
            (
                "timeout_ms",
                Some(duration::milliseconds(END_BOUND).to_string()),
            ),
        ],
    );
    let asked = tokio::time::timeout(ANSWER_BOUND, client.get::<WaitResult>(&wait)).await;
    let Ok(answer) = asked else {
        return broken.into();
    };
    reason(vm, answer).unwrap_or(broken).into()
}

fn reason(vm: &str, answer: Result<WaitResult, ApiError>) -> Option<ApiError> {
    let deleted = || {
        ApiError::new(
            ErrorKind::NotFound,
            format!("VM {vm} was deleted before the command ended"),
        )
    };
    match answer {
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
        // It runs on.
        Err(error) if error.kind == ErrorKind::Timeout => Some(
            ApiError::new(
                ErrorKind::GuestUnreachable,
                format!("VM {vm} runs, but its agent gave the command up before it ended"),
            )
            .hint(format!("banger vm logs --console {vm}")),
        ),
        Err(_) => None,
    }
}
