//! `banger daemon status`.

use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::build::{BuildInfo, this_build};
use banger_protocol::error::{ApiError, ErrorKind};
use clap::Args;
use time::OffsetDateTime;

use crate::commands::Context;
use crate::daemon::{self, Found};
use crate::failure::Outcome;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger daemon status
  banger daemon status --json | jq -r .socket";

/// Show whether bangerd runs, and where it keeps what
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {}

pub async fn run(context: &Context, _args: Status) -> Outcome {
    match daemon::find(&context.environment).await? {
        Found::Running(client) => {
            let daemon = client.daemon();
            if context.json {
                output::print_json(daemon)?;
            } else {
                output::print(&text(daemon, OffsetDateTime::now_utc()))?;
            }
            Ok(0)
        }
        Found::Absent(layout) => Err(ApiError::new(
            ErrorKind::DaemonUnavailable,
            format!(
                "bangerd does not run: nobody listens on {}",
                layout.socket().display()
            ),
        )
        .hint("any command that needs it starts it; so does: banger daemon start")
        .into()),
    }
}

fn text(daemon: &DaemonInfo, now: OffsetDateTime) -> String {
    let by = if daemon.started_by_client {
        "by a client"
    } else {
        "by a service manager or a person"
    };
    output::fields(&[
        ("process", daemon.pid.to_string()),
        (
            "started",
            format!("{} ago, {by}", output::age(daemon.started_at, now)),
        ),
        ("banger", build(&this_build())),
        ("bangerd", build(&daemon.build)),
        ("agent", build(&daemon.agent)),
        ("program", daemon.executable.clone()),
        ("socket", daemon.socket.clone()),
        (
            "log",
            match daemon.log.as_str() {
                "" => "stderr, or the journal".to_owned(),
                log => log.to_owned(),
            },
        ),
        ("root", daemon.state_directory.clone()),
        ("config", daemon.config_file.clone()),
        ("instance", daemon.instance.clone()),
    ])
}

/// Version, commit and time of a program.
pub fn build(build: &BuildInfo) -> String {
    format!(
        "{} (commit {}, built {})",
        build.version, build.commit, build.built_at
    )
}
