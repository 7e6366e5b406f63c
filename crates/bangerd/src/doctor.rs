//! What banger needs of this host, looked at one thing at a time.
//!
//! Each check says what was found, what follows from it and what to do. Looking changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_host::cgroup::{Cgroup, Limits};
use banger_host::check::{self, Check, Status};
use banger_host::command::{Program, find};
use banger_protocol::api::daemon::{Check as ApiCheck, CheckStatus, DoctorReport};
use banger_protocol::build::{BuildInfo, this_build};
use banger_protocol::size;
use futures_util::future::BoxFuture;

use crate::agent_program::AgentProgram;
use crate::config::Config;
use crate::services::Identity;

/// Bound of asking a program for its version.
const VERSION_BOUND: Duration = Duration::from_secs(5);
/// Below this an image of ordinary size may not fit.
const LITTLE_SPACE: u64 = 5 << 30;
/// Below this not even a VM's first writes may fit.
const NO_SPACE: u64 = 256 << 20;

/// Asks the driver where VMs run: KVM or emulation, and why.
pub type AskDriver = Box<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// Looks at the host.
pub struct Doctor {
    pub config: Arc<Config>,
    pub agent: Arc<AgentProgram>,
    pub driver: AskDriver,
}

impl Doctor {
    pub async fn report(&self, identity: &Identity) -> DoctorReport {
        let mut checks = (self.driver)().await;
        checks.push(self.qemu().await);
        checks.push(self.agent(&identity.agent));
        checks.push(program(
            "mke2fs",
            Status::Fail,
            "the file systems of VMs' disks cannot be made",
            "install e2fsprogs",
        ));
        checks.push(program(
            "mmdebstrap",
            Status::Warn,
            "images of the catalog cannot be built; images from registries can be pulled",
            "install mmdebstrap",
        ));
        checks.push(program(
            "apt-get",
            Status::Warn,
            "kernels of the catalog cannot be pulled; your own can be imported",
            "use a host with apt, or banger kernel import",
        ));
        checks.push(cgroups(&identity.instance));
        checks.push(disk_space(&identity.layout.state));
        checks.push(Check::pass(
            "bangerd",
            format!(
                "{} ({}), state in {}",
                this_build().version,
                this_build().commit,
                identity.layout.state.display()
            ),
        ));
        DoctorReport {
            status: status(check::worst(&checks)),
            checks: checks.into_iter().map(shown).collect(),
        }
    }

    async fn qemu(&self) -> Check {
        let Some(path) = find(&self.config.qemu_bin) else {
            return Check::problem(
                "qemu",
                Status::Fail,
                format!("{} is not installed", self.config.qemu_bin.display()),
                "no VM can run",
                "install qemu-system-x86, or set qemu_bin",
            );
        };
        let version = Program::new(&path)
            .arg("--version")
            .time_limit(VERSION_BOUND)
            .run()
            .await;
        match version {
            Ok(output) => Check::pass(
                "qemu",
                format!(
                    "{}: {}",
                    path.display(),
                    output.text().lines().next().unwrap_or_default()
                ),
            ),
            Err(error) => Check::problem(
                "qemu",
                Status::Fail,
                error.to_string(),
                "no VM can run",
                "install qemu-system-x86 again, or set qemu_bin",
            ),
        }
    }

    fn agent(&self, started_with: &BuildInfo) -> Check {
        match self.agent.path() {
            Err(error) => Check::problem(
                "agent",
                Status::Fail,
                error.message,
                "no VM can start",
                error.hint.unwrap_or_default(),
            ),
            Ok(path) => agent_version(path, started_with, &this_build()),
        }
    }
}

/// Agent and daemon of one build belong together; others usually work.
fn agent_version(path: &Path, agent: &BuildInfo, daemon: &BuildInfo) -> Check {
    if agent == daemon {
        return Check::pass("agent", format!("{}: {}", path.display(), agent.version));
    }
    Check::problem(
        "agent",
        Status::Warn,
        format!(
            "{} is {} ({}), and bangerd is {} ({})",
            path.display(),
            agent.version,
            agent.commit,
            daemon.version,
            daemon.commit
        ),
        "what is new in one of them may be missing in the other",
        "install both from one build, then run banger daemon stop",
    )
}

fn program(name: &str, missing: Status, consequence: &str, remedy: &str) -> Check {
    match find(name) {
        Some(path) => Check::pass(name, path.display().to_string()),
        None => Check::problem(
            name,
            missing,
            format!("{name} is not installed"),
            consequence,
            remedy,
        ),
    }
}

fn cgroups(instance: &str) -> Check {
    let name = format!("banger-{instance}/doctor");
    match Cgroup::create(&name, &Limits::default()) {
        Ok((Some(cgroup), notes)) => {
            let removed = cgroup.remove();
            let mut check = Check::pass("cgroups", "each VM gets a cgroup of its own");
            check.details.extend(notes);
            if let Err(error) = removed {
                check.status = Status::Warn;
                check.details.push(error.to_string());
            }
            check
        }
        Ok((None, notes)) => {
            let mut check = Check::problem(
                "cgroups",
                Status::Warn,
                "no cgroup can be made here",
                "what VMs use is counted together with bangerd's",
                "run bangerd as root, or as a service with Delegate=yes",
            );
            check.details.extend(notes);
            check
        }
        Err(error) => Check::problem(
            "cgroups",
            Status::Warn,
            error.to_string(),
            "what VMs use is counted together with bangerd's",
            "run bangerd as root, or as a service with Delegate=yes",
        ),
    }
}

fn disk_space(state: &Path) -> Check {
    match rustix::fs::statvfs(state) {
        Ok(found) => free_space(state, found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Check::problem(
            "disk space",
            Status::Fail,
            format!("cannot inspect {}: {error}", state.display()),
            "nothing can be kept",
            "make the directory accessible",
        ),
    }
}

fn free_space(state: &Path, free: u64) -> Check {
    let found = format!("{} free in {}", size::format(free), state.display());
    if free >= LITTLE_SPACE {
        return Check::pass("disk space", found);
    }
    let (status, consequence) = if free >= NO_SPACE {
        (Status::Warn, "large images may not fit")
    } else {
        (
            Status::Fail,
            "images cannot be pulled, and VMs may stop writing",
        )
    };
    Check::problem(
        "disk space",
        status,
        found,
        consequence,
        "free some space, for instance with banger image prune",
    )
}

fn status(status: Status) -> CheckStatus {
    match status {
        Status::Pass => CheckStatus::Pass,
        Status::Warn => CheckStatus::Warn,
        Status::Fail => CheckStatus::Fail,
    }
}

fn shown(check: Check) -> ApiCheck {
    ApiCheck {
        name: check.name,
        status: status(check.status),
        details: check.details,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space() {
        let state = Path::new("/s");
        for (free, expected) in [
            (u64::MAX, Status::Pass),
            (LITTLE_SPACE, Status::Pass),
            (LITTLE_SPACE - 1, Status::Warn),
            (NO_SPACE - 1, Status::Fail),
            (0, Status::Fail),
        ] {
            assert_eq!(free_space(state, free).status, expected, "{free}");
        }
        let check = free_space(state, 1 << 30);
        assert_eq!(check.details[0], "1 GiB free in /s");
        assert_eq!(check.details.len(), 3, "cause, consequence, remedy");
    }

    #[test]
    fn other_builds_are_told() {
        let build = |version: &str| BuildInfo {
            version: version.to_owned(),
            commit: "c".to_owned(),
            built_at: "t".to_owned(),
        };
        let path = Path::new("/a");
        assert_eq!(
            agent_version(path, &build("1"), &build("1")).status,
            Status::Pass
        );
        assert_eq!(
            agent_version(path, &build("1"), &build("2")).status,
            Status::Warn
        );
    }

    #[test]
    fn a_missing_program_has_a_remedy() {
        let check = program("no-such-program", Status::Fail, "x", "install it");
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.details[2], "install it");
    }
}
