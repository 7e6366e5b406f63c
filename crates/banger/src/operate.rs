//! One long action from request to result: shows its progress, and cancels it on Ctrl-C.
//!
//! The first Ctrl-C asks bangerd to cancel and waits until what was half done is undone; the second
//! leaves at once, which hangs up and so cancels too.

use std::future::Future;

use banger_protocol::api::operation::{Operation, OperationEvent, OperationResult, OperationState};
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use hyper::Method;
use tokio::signal::unix::SignalKind;

use crate::client::{Client, Events};
use crate::commands::Context;
use crate::failure::{Failure, tell};
use crate::output;
use crate::progress::Shown;
use crate::signal::{self, Signal};

/// Follows the operation that `request` starts, to its end.
///
/// # Errors
/// What the request or the connection says, or [`Failure::Interrupted`]. An operation that ended
/// badly is no error here: see [`result`].
pub async fn operate(
    client: &Client,
    request: impl Future<Output = Result<Events<OperationEvent>, ApiError>>,
    mut shown: Shown,
) -> Result<Operation, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut events = tokio::select! {
        events = request => events?,
        number = interrupts.next() => return Err(Failure::Interrupted(number)),
    };
    let mut current: Option<Operation> = None;
    let mut cancelled_by = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            number = interrupts.next() => {
                let Some(operation) = current.as_ref().filter(|_| cancelled_by.is_none()) else {
                    return Err(Failure::Interrupted(number));
                };
                cancelled_by = Some(number);
                tell("banger: cancelling; once more to leave at once\n");
                let cancel = path::fill(path::OPERATION_CANCEL, &[operation.id.as_str()]);
                // One that ended meanwhile says so in its events.
                let _ = client.act(Method::POST, &cancel).await;
                continue;
            }
        };
        match event {
            Some(OperationEvent::Started { operation }) => current = Some(operation),
            Some(OperationEvent::Ended { operation }) => {
                return match cancelled_by {
                    Some(number) if operation.state == OperationState::Cancelled => {
                        Err(Failure::Interrupted(number))
                    }
                    _ => Ok(operation),
                };
            }
            Some(progress) => shown.event(&progress),
            None => return Err(unfinished(current.as_ref()).into()),
        }
    }
}

/// What an operation that has ended made, or why it did not.
///
/// # Errors
/// The operation's own error.
pub fn result(operation: Operation) -> Result<OperationResult, ApiError> {
    let unexplained = |what: &str| {
        ApiError::new(
            ErrorKind::Internal,
            format!("operation {} {what} and says nothing more", operation.id),
        )
    };
    match operation.state {
        OperationState::Succeeded => operation.result.ok_or_else(|| unexplained("succeeded")),
        OperationState::Failed => Err(operation.error.unwrap_or_else(|| unexplained("failed"))),
        OperationState::Cancelled => Err(operation
            .error
            .unwrap_or_else(|| ApiError::new(ErrorKind::Cancelled, "the operation was cancelled"))),
        OperationState::Running => Err(unfinished(Some(&operation))),
    }
}

/// A result of another kind than the request's.
pub fn unexpected(result: &OperationResult) -> ApiError {
    let kind = match result {
        OperationResult::Vm { .. } => "a VM",
        OperationResult::Image { .. } => "an image",
        OperationResult::Kernel { .. } => "a kernel",
        OperationResult::Pruned { .. } => "a pruning",
        OperationResult::Deleted { .. } => "a deletion",
    };
    ApiError::new(
        ErrorKind::VersionMismatch,
        format!("bangerd answered with {kind}, which was not asked for"),
    )
}

/// Prints what was done to one of several targets: its name, or the API's type on one line.
pub fn print(context: &Context, target: &str, result: &OperationResult) -> Result<(), Failure> {
    match result {
        OperationResult::Vm { vm } if context.json => output::print_json_line(vm),
        result if context.json => output::print_json_line(result),
        OperationResult::Vm { vm } => output::print(&format!("{}\n", vm.name)),
        OperationResult::Deleted { name } => output::print(&format!("{name}\n")),
        _ => output::print(&format!("{target}\n")),
    }
}

fn unfinished(operation: Option<&Operation>) -> ApiError {
    let error = ApiError::new(
        ErrorKind::DaemonUnavailable,
        "bangerd closed the connection before the operation ended",
    );
    match operation {
        Some(operation) => error.hint(format!(
            "see what became of it with: banger operation show {}",
            operation.id
        )),
        None => error,
    }
}

/// Ctrl-C and a polite request to end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal::listen(kind).map_err(|error| {
                Failure::new(
                    ErrorKind::Internal,
                    format!("cannot listen for signals: {error}"),
                )
            })
        };
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The number of the signal that came.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            () = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            () = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}
