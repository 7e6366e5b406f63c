//! A child that leads a process group, killed whole unless it was waited for.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

use super::error::{CommandError, Ending};
use super::tail::Tail;

#[derive(Debug)]
pub(super) struct Group {
    pub(super) child: Child,
}

impl Group {
    pub(super) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Waits for the leader and judges its exit.
    pub(super) async fn wait(
        &mut self,
        command: &str,
        accepted: &[i32],
        tail: &Tail,
    ) -> Result<i32, CommandError> {
        let status = self.child.wait().await.map_err(|source| CommandError::Io {
            command: command.to_owned(),
            source,
        })?;
        match Ending::from(status) {
            Ending::Code(code) if accepted.contains(&code) => Ok(code),
            ending => Err(CommandError::Failed {
                command: command.to_owned(),
                ending,
                stderr: tail.text(),
            }),
        }
    }

    pub(super) async fn kill_and_reap(&mut self) {
        self.kill();
        drop(self.child.wait().await);
    }

    /// `Child::id` is `None` once the leader was reaped; until then its number, which is also
    /// the group's, cannot belong to anyone else.
    fn kill(&self) {
        let leader = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(leader) = leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
