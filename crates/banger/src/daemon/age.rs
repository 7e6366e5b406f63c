//! Whether a running daemon is older than what is installed, and what to do about it. Pure.

use banger_host::layout::Layout;
use banger_protocol::api;
use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::build::BuildInfo;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::program::Program;

/// What to do about a daemon's age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Use it as it is.
    Current,
    /// A client started it, so this one may stop it and start the installed one.
    Replace { reason: String },
    /// Somebody else's: say how to restart it.
    Tell { reason: String, command: String },
}

/// Compares the running daemon with this CLI and with the bangerd that would be started. `own` says
/// that it runs in the place where this user's daemons are started.
///
/// A daemon newer than the CLI is never replaced, and none is where the replacement would be the
/// very same file: then the installation itself is of two ages, and replacing would never end.
pub fn judge(
    cli: &BuildInfo,
    installed: Option<&Program>,
    daemon: &DaemonInfo,
    own: bool,
) -> Verdict {
    let same_file = installed.is_some_and(|program| {
        program.path.as_os_str() == daemon.executable.as_str()
            && program.modified_at == daemon.executable_modified_at
    });
    let Some(reason) = older(cli, installed, daemon).filter(|_| !same_file) else {
        return Verdict::Current;
    };
    if daemon.started_by_client && own {
        return Verdict::Replace { reason };
    }
    let is_system = daemon.socket.as_str() == Layout::system().socket().to_string_lossy();
    let command = match (is_system, daemon.started_by_client) {
        (true, false) => "sudo systemctl restart bangerd",
        (true, true) => "sudo banger daemon stop && sudo banger daemon start",
        (false, _) => "banger daemon stop && banger daemon start",
    };
    Verdict::Tell {
        reason,
        command: command.to_owned(),
    }
}

fn older(cli: &BuildInfo, installed: Option<&Program>, daemon: &DaemonInfo) -> Option<String> {
    let running = format!("bangerd {} (process {})", daemon.build.version, daemon.pid);
    if daemon.api_version < api::VERSION {
        return Some(format!(
            "{running} speaks version {} of the API, this banger {}",
            daemon.api_version,
            api::VERSION
        ));
    }
    let (ours, theirs) = (version(&cli.version), version(&daemon.build.version));
    if theirs != ours {
        return (theirs < ours)
            .then(|| format!("{running} is older than this banger {}", cli.version));
    }
    if let (Ok(ours), Ok(theirs)) = (
        OffsetDateTime::parse(&cli.built_at, &Rfc3339),
        OffsetDateTime::parse(&daemon.build.built_at, &Rfc3339),
    ) && theirs < ours
    {
        return Some(format!(
            "{running} was built at {}, this banger at {}",
            daemon.build.built_at, cli.built_at
        ));
    }
    installed
        .filter(|program| {
            program.path.as_os_str() == daemon.executable.as_str()
                && program.modified_at > daemon.executable_modified_at
        })
        .map(|program| {
            format!(
                "{running} runs an older build of {}",
                program.path.display()
            )
        })
}

/// A version as numbers; what is no number counts as 0.
fn version(text: &str) -> [u64; 3] {
    let mut numbers = text
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::daemon::Defaults;
    use std::path::PathBuf;

    const T0: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

    fn build(version: &str, built_at: &str) -> BuildInfo {
        BuildInfo {
            version: version.into(),
            commit: "unknown".into(),
            built_at: built_at.into(),
        }
    }

    fn daemon(version: &str, built_at: &str) -> DaemonInfo {
        DaemonInfo {
            api_version: api::VERSION,
            build: build(version, built_at),
            agent: build(version, built_at),
            pid: 7,
            instance: "0".into(),
            socket: "/u/bangerd.sock".into(),
            log: String::new(),
            state_directory: "/s".into(),
            config_file: "/c".into(),
            executable: "/bin/bangerd".into(),
            executable_modified_at: T0,
            started_at: T0,
            started_by_client: true,
            defaults: Defaults {
                image: "debian-12".into(),
                kernel: None,
                vcpus: 1,
                memory_mib: 1,
                disk_mib: 1,
            },
        }
    }

    fn program(path: &str, minutes: i64) -> Program {
        Program {
            path: PathBuf::from(path),
            modified_at: T0 + time::Duration::minutes(minutes),
        }
    }

    #[derive(Debug, PartialEq)]
    enum Is {
        Current,
        Replaced,
        Told,
    }

    fn judged(cli: &BuildInfo, installed: Option<Program>, daemon: &DaemonInfo) -> Is {
        match judge(cli, installed.as_ref(), daemon, true) {
            Verdict::Current => Is::Current,
            Verdict::Replace { .. } => Is::Replaced,
            Verdict::Tell { .. } => Is::Told,
        }
    }

    #[test]
    fn verdicts() {
        let early = "2026-01-01T00:00:00Z";
        let late = "2026-02-01T00:00:00Z";
        let other = || Some(program("/other/bangerd", 0));
        for (cli, installed, running, expected) in [
            // The same.
            (("1.0.0", early), other(), ("1.0.0", early), Is::Current),
            // By version, numerically.
            (("1.10.0", early), other(), ("1.9.0", early), Is::Replaced),
            (("1.9.0", early), other(), ("1.10.0", early), Is::Current),
            // A newer version built earlier is still newer.
            (("1.0.0", late), other(), ("2.0.0", early), Is::Current),
            // By build time.
            (("1.0.0", late), other(), ("1.0.0", early), Is::Replaced),
            (("1.0.0", early), other(), ("1.0.0", late), Is::Current),
            (("1.0.0", late), other(), ("1.0.0", "unknown"), Is::Current),
            // By the file it runs.
            (
                ("1.0.0", early),
                Some(program("/bin/bangerd", 1)),
                ("1.0.0", early),
                Is::Replaced,
            ),
            (
                ("1.0.0", early),
                Some(program("/bin/bangerd", -1)),
                ("1.0.0", early),
                Is::Current,
            ),
            (
                ("1.0.0", early),
                Some(program("/other/bangerd", 1)),
                ("1.0.0", early),
                Is::Current,
            ),
            (("1.0.0", early), None, ("1.0.0", early), Is::Current),
            // The replacement would be the same file.
            (
                ("2.0.0", late),
                Some(program("/bin/bangerd", 0)),
                ("1.0.0", early),
                Is::Current,
            ),
            // Nothing to start is found: it is told when the start fails.
            (("2.0.0", late), None, ("1.0.0", early), Is::Replaced),
        ] {
            let cli = build(cli.0, cli.1);
            let running = daemon(running.0, running.1);
            assert_eq!(
                judged(&cli, installed.clone(), &running),
                expected,
                "{cli:?} {installed:?}"
            );
        }
    }

    #[test]
    fn what_others_started_is_only_told_about() {
        let cli = build("2.0.0", "unknown");
        let mut running = daemon("1.0.0", "unknown");
        running.started_by_client = false;
        assert_eq!(judged(&cli, None, &running), Is::Told);
        running.socket = Layout::system().socket().to_string_lossy().into_owned();
        for (started_by_client, said) in [(false, "systemctl"), (true, "sudo banger daemon")] {
            running.started_by_client = started_by_client;
            let Verdict::Tell { command, .. } = judge(&cli, None, &running, false) else {
                panic!("not told");
            };
            assert!(command.contains(said), "{command}");
        }
    }

    #[test]
    fn an_older_api_counts_whatever_the_version() {
        let mut running = daemon("9.0.0", "unknown");
        running.api_version = 0;
        assert_eq!(
            judged(&build("1.0.0", "unknown"), None, &running),
            Is::Replaced
        );
    }
}
