//! `banger version`.

use banger_protocol::build::{BuildInfo, this_build};
use clap::Args;
use serde::Serialize;

use super::Context;
use super::daemon::status::build;
use crate::daemon::{self, Found};
use crate::failure::Outcome;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger version
  banger version --json | jq -r .client.commit";

/// Show the versions of banger, bangerd and the agent
///
/// Starts nothing: where bangerd does not run, it says so.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Version {}

#[derive(Serialize)]
struct Versions {
    client: BuildInfo,
    /// Null where none runs.
    daemon: Option<BuildInfo>,
    agent: Option<BuildInfo>,
}

pub async fn run(context: &Context, _args: Version) -> Outcome {
    // Who cannot be asked is as good as not running here; `daemon status` says why.
    let running = match daemon::find(&context.environment).await {
        Ok(Found::Running(client)) => Some(client),
        Ok(Found::Absent(_)) | Err(_) => None,
    };
    let daemon = running.as_ref().map(|client| client.daemon());
    let versions = Versions {
        client: this_build(),
        daemon: daemon.map(|daemon| daemon.build.clone()),
        agent: daemon.map(|daemon| daemon.agent.clone()),
    };
    if context.json {
        output::print_json(&versions)?;
    } else {
        output::print(&text(&versions))?;
    }
    Ok(0)
}

fn text(versions: &Versions) -> String {
    let or_absent = |info: &Option<BuildInfo>| {
        info.as_ref()
            .map_or_else(|| "not running".to_owned(), build)
    };
    output::fields(&[
        ("banger", build(&versions.client)),
        ("bangerd", or_absent(&versions.daemon)),
        ("agent", or_absent(&versions.agent)),
    ])
}
