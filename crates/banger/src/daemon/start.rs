//! Starting bangerd detached from everything that is the client's, and waiting for it.
//!
//! Two clients may start one at the same time: one daemon gets the root directory, the other ends,
//! and both clients talk to the first. So the end of the process we started is no failure as long
//! as one answers soon after.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_host::layout::Layout;
use banger_protocol::error::{ApiError, ErrorKind};

use super::last_words::LastWords;
use super::program;
use crate::client::{Client, ConnectError};
use crate::environment::Environment;

/// How long a started daemon may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long another daemon may take until it answers, once ours has ended.
const RIVAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a stopped daemon may take until it is gone: it waits for operations to be undone.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Starts the installed bangerd for `layout` and waits until one answers there.
pub async fn start(environment: &Environment, layout: &Layout) -> Result<Client, ApiError> {
    let program = program::find(environment)?;
    let cannot = |error: io::Error| {
        ApiError::new(
            ErrorKind::DaemonUnavailable,
            format!("cannot start {}: {error}", program.path.display()),
        )
    };
    let mut words = LastWords::open(layout).map_err(cannot)?;
    let mut command = Command::new(&program.path);
    command
        .arg("--started-by-client")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(words.writer().map_err(cannot)?)
        .stderr(words.writer().map_err(cannot)?);
    if let Some(root) = environment
        .layout
        .banger_root
        .as_ref()
        .filter(|root| !root.is_empty())
    {
        // Absolute, since the daemon's current directory is another one.
        command.env("BANGER_ROOT", environment.layout.current_dir.join(root));
    }
    // SAFETY: between fork and exec only setsid and close_range are called, which are
    // async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(detach);
    }
    let child = command.spawn().map_err(cannot)?;
    until_ready(layout, child, &mut words).await
}

/// A session of its own, so that no signal of the client's terminal reaches the daemon, and no
/// file descriptor which the client itself inherited.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    // Marked rather than closed: the standard library still reports a failed exec through one.
    // A kernel before 5.11 does not know the flag; then they are inherited, which only keeps the
    // client's parent waiting for their end.
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC touches no memory and closes nothing now.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
    Ok(())
}

async fn until_ready(
    layout: &Layout,
    mut child: Child,
    words: &mut LastWords,
) -> Result<Client, ApiError> {
    let mut deadline = Instant::now() + READY_TIMEOUT;
    let mut ended = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match Client::greet(&layout.socket()).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Absent(_)) => {}
            // It listens, but is not what we can talk to; waiting may help while it starts.
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => {}
        }
        if ended.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            ended = Some(status);
            deadline = deadline.min(Instant::now() + RIVAL_TIMEOUT);
        }
        let refusal = ended.and_then(|status| words.refusal(status));
        if let Some(refusal) = refusal
            // Where another daemon has the directory, that one answers soon.
            && (refusal.kind != ErrorKind::DaemonUnavailable || Instant::now() >= deadline)
        {
            return Err(refusal);
        }
        if Instant::now() >= deadline {
            let message = match ended {
                Some(status) => format!("bangerd ended before it was ready ({status})"),
                None => format!(
                    "bangerd (process {}) was not ready within {} s",
                    child.id(),
                    READY_TIMEOUT.as_secs()
                ),
            };
            return Err(ApiError::new(ErrorKind::DaemonUnavailable, message)
                .details(words.lines())
                .hint(format!("its log is {}", layout.log().display())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until nobody answers on the socket of a daemon that was told to stop.
pub async fn wait_until_gone(client: &Client) -> Result<(), ApiError> {
    let pid = client.daemon().pid;
    let deadline = Instant::now() + GONE_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        match Client::greet(client.socket()).await {
            Err(ConnectError::Absent(_)) if !is_process(pid) => return Ok(()),
            // A service manager, or another client, was faster than we could look.
            Ok(other) if other.daemon().pid != pid => return Ok(()),
            _ if Instant::now() >= deadline => {
                return Err(ApiError::new(
                    ErrorKind::Timeout,
                    format!(
                        "bangerd (process {pid}) did not end within {} s",
                        GONE_TIMEOUT.as_secs()
                    ),
                ));
            }
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_process(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie no longer holds the root directory; its parent may be slow to reap it.
    !stat.is_empty()
        && !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn layout(root: &Path) -> Layout {
        Layout {
            kind: banger_host::layout::Kind::Root,
            config_file: root.join("config.toml"),
            state: root.join("state"),
            runtime: root.join("run"),
        }
    }

    fn script(directory: &Path, text: &str) -> Environment {
        let path = directory.join("bangerd");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut environment = Environment {
            bangerd: Some(path),
            ..Environment::default()
        };
        environment.layout.banger_root = Some(directory.into());
        environment
    }

    #[tokio::test]
    async fn a_failed_start_shows_the_last_words_of_this_start() {
        for with_log in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let layout = layout(directory.path());
            if with_log {
                std::fs::create_dir(&layout.state).unwrap();
                std::fs::write(layout.log(), "an older line\n").unwrap();
            }
            let environment = script(directory.path(), "#!/bin/sh\necho no room >&2; exit 7\n");
            let error = start(&environment, &layout).await.err().unwrap();
            assert_eq!(error.kind, ErrorKind::DaemonUnavailable);
            assert_eq!(error.details, ["no room"]);
            assert!(
                error.message.contains("exit status: 7"),
                "{}",
                error.message
            );
        }
    }

    #[tokio::test]
    async fn a_daemon_that_says_why_it_does_not_start_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let environment = script(
            directory.path(),
            "#!/bin/sh\necho 'bangerd: unknown key foo' >&2; echo 'hint: look' >&2; exit 124\n",
        );
        let before = Instant::now();
        let error = start(&environment, &layout(directory.path()))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind, ErrorKind::BadConfig);
        assert_eq!(error.message, "bangerd does not start: unknown key foo");
        assert_eq!(error.hint.as_deref(), Some("look"));
        assert!(before.elapsed() < RIVAL_TIMEOUT, "it waits for nobody");
    }

    #[tokio::test]
    async fn a_started_daemon_has_nothing_of_the_client() {
        let directory = tempfile::tempdir().unwrap();
        // Not close-on-exec, as a shell's redirection would be.
        let (inherited, _other) = rustix::pipe::pipe().unwrap();
        let environment = script(
            directory.path(),
            "#!/bin/sh\nls /proc/self/fd; pwd; cat /proc/$$/stat; echo \"$BANGER_ROOT\"; exit 1\n",
        );
        let error = start(&environment, &layout(directory.path()))
            .await
            .err()
            .unwrap();
        drop(inherited);
        // 3 is the directory `ls` itself reads.
        let (fds, rest) = error.details.split_at(4);
        assert_eq!(fds, ["0", "1", "2", "3"], "{:?}", error.details);
        assert_eq!(rest[0], "/");
        let stat: Vec<&str> = rest[1].split(' ').collect();
        assert_eq!(stat[5], stat[0], "it does not lead a session of its own");
        assert_eq!(stat[6], "0", "it has a controlling terminal");
        assert_eq!(Path::new(&rest[2]), directory.path());
    }
}
