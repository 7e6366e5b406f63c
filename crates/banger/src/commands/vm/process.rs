//! What `run` and `exec` share: joining a process and ending as it ended.

use std::cell::Cell;

use banger_protocol::api::exec::ExecRequest;
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::exec::{ExitStatus, StartFailureKind};
use serde::Serialize;

use super::lost;
use crate::attach::{self, Plan};
use crate::client::Client;
use crate::commands::Context;
use crate::failure::{Failure, Outcome, harmless_json, printable, tell};
use crate::terminal;

/// Whether a process gets a terminal and stdin.
pub fn plan(tty: bool, interactive: bool, has_command: bool) -> Plan {
    use std::io::IsTerminal;
    Plan::new(
        tty,
        interactive,
        has_command,
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
    )
}

/// Starts the process that `request` describes at `path`, in `vm`, and stays with it until it ends.
pub async fn join(
    context: &Context,
    client: &Client,
    vm: &str,
    path: &str,
    mut request: ExecRequest,
    plan: Plan,
) -> Result<ExitStatus, Failure> {
    request.stdin = plan.stdin;
    if plan.terminal {
        request.terminal = Some(terminal::size_or_default());
        let has_term = request
            .env
            .iter()
            .any(|variable| variable.as_bytes().starts_with(b"TERM="));
        if let Some(term) = context.environment.term.as_ref().filter(|_| !has_term) {
            let mut variable = std::ffi::OsString::from("TERM=");
            variable.push(term);
            request.env.insert(0, ByteString::from(variable));
        }
    }
    let joined = Cell::new(false);
    let connecting = async {
        let upgraded = client.upgrade(path, &request).await?;
        joined.set(true);
        Ok(upgraded)
    };
    match attach::attach(connecting, plan).await {
        Err(Failure::Error(broken))
            if joined.get() && broken.kind == ErrorKind::DaemonUnavailable =>
        {
            Err(lost::explain(client, vm, broken).await)
        }
        ended => ended,
    }
}

/// The last line of stderr with `--json`: a command ran, or was to run, in the VM.
#[derive(Serialize)]
struct Report<'a> {
    exit: Exit<'a>,
}

#[derive(Serialize)]
struct Exit<'a> {
    vm: &'a str,
    /// What the CLI exits with.
    code: u8,
    status: &'a ExitStatus,
}

/// Ends as the process ended. What a shell would blame on the command line, a missing or
/// unexecutable program, is a command's exit; what it could not even try is banger's failure.
pub fn conclude(context: &Context, vm: &str, status: &ExitStatus) -> Outcome {
    let Some(code) = status.shell_code() else {
        return Err(not_started(vm, status).into());
    };
    // As the kernel does: the low eight bits.
    let code = (code & 0xff) as u8;
    if context.json {
        let report = Report {
            exit: Exit { vm, code, status },
        };
        if let Ok(line) = serde_json::to_string(&report) {
            tell(&(harmless_json(line) + "\n"));
        }
    } else if let ExitStatus::Failed(failure) = status {
        tell(&format!("banger: {}\n", printable(&failure.message)));
    }
    Ok(code)
}

fn not_started(vm: &str, status: &ExitStatus) -> ApiError {
    let ExitStatus::Failed(failure) = status else {
        return ApiError::new(
            ErrorKind::VersionMismatch,
            format!("the command in {vm} ended in a way this banger does not know"),
        );
    };
    let kind = match failure.kind {
        StartFailureKind::NoResources => ErrorKind::WrongState,
        _ => ErrorKind::InvalidArgument,
    };
    ApiError::new(
        kind,
        format!("cannot start the command in {vm}: {}", failure.message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::exec::StartFailure;

    #[test]
    fn exit_codes() {
        let context = Context {
            environment: Default::default(),
            json: false,
            quiet: true,
        };
        let failed = |kind| ExitStatus::Failed(StartFailure::new(kind, "x"));
        for (status, expected) in [
            (ExitStatus::Code(0), Ok(0)),
            (ExitStatus::Code(255), Ok(255)),
            (ExitStatus::Code(256), Ok(0)),
            (ExitStatus::Code(-1), Ok(255)),
            (ExitStatus::Signal(9), Ok(137)),
            (failed(StartFailureKind::NotFound), Ok(127)),
            (failed(StartFailureKind::NotExecutable), Ok(126)),
            (
                failed(StartFailureKind::BadUser),
                Err(ErrorKind::InvalidArgument),
            ),
            (
                failed(StartFailureKind::BadWorkdir),
                Err(ErrorKind::InvalidArgument),
            ),
            (
                failed(StartFailureKind::NoResources),
                Err(ErrorKind::WrongState),
            ),
        ] {
            let outcome = conclude(&context, "web", &status);
            match (outcome, expected) {
                (Ok(code), Ok(expected)) => assert_eq!(code, expected, "{status:?}"),
                (Err(failure), Err(kind)) => {
                    assert_eq!(failure.exit_code(), kind.exit_code(), "{status:?}");
                }
                (outcome, _) => panic!("{status:?}: {outcome:?}"),
            }
        }
    }
}
