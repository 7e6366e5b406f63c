//! The stop recipe: the guest is asked to end, has its time, and is killed after it.
//!
//! The agent answers once it has begun; then processes are told, everything is written, and the
//! machine ends by itself. Nothing that was written before is lost that way. A guest that does
//! not answer, or takes too long, loses what it had not written yet, and the VM's note says so.

use std::sync::Arc;
use std::time::Duration;

use banger_protocol::agent::{Down, Shutdown};
use banger_vmm::{Exit, Machine};
use tokio::time::{Instant, timeout};

use crate::agent::Agent;

/// Kept back of the time given: the agent's own grace ends before we kill.
const RESERVE: Duration = Duration::from_secs(3);

/// How a machine was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The guest did it.
    ByGuest,
    /// We did.
    Killed {
        /// Why, where that is worth a note.
        why: Option<String>,
    },
    /// The VMM died before the guest was done.
    Died { reason: String },
}

/// Asks the guest to end, until `deadline`. `Err` says why it has to be killed.
pub(super) async fn ask(agent: &Agent, deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(String::new());
    }
    let grace = left.saturating_sub(RESERVE).max(left / 2);
    let shutdown = Shutdown {
        how: Down::PowerOff,
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
    };
    agent
        .shut_down(shutdown, left)
        .await
        .map_err(|error| error.to_string())
}

/// Kills what is left, and says how the machine ended.
pub(super) async fn finish(
    machine: &Arc<dyn Machine>,
    exit: Option<Exit>,
    why: Option<String>,
) -> Stopped {
    match exit {
        // Whoever is stopped does not come back, so a reboot is an end, too.
        Some(Exit::PowerOff | Exit::Reboot | Exit::Unknown) => Stopped::ByGuest,
        Some(Exit::Killed) => Stopped::Killed { why },
        Some(Exit::Died { reason }) => Stopped::Died { reason },
        None => {
            if let Err(error) = machine.kill().await {
                tracing::warn!(%error, "a machine was not killed by its driver");
            }
            // The release of the machine sees to a process that is left.
            let _ = timeout(Duration::from_secs(1), machine.wait()).await;
            Stopped::Killed { why }
        }
    }
}
