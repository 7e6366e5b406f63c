//! Starting bangerd detached from everything that is the client's, and waiting for it.
//!
//! Two clients may start one at the same time: one daemon gets the root directory, the other ends,
//! and both clients talk to the first. So the end of the process we started is no failure as long
//! as one answers soon after.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_host::layout::Layout;
use banger_protocol::error::{ApiError, ErrorKind};

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
/// Lines of its log that a failed start shows.
const LOG_LINES: usize = 10;
/// Bytes of the log's end that are looked at for them.
const LOG_BYTES: u64 = 64 << 10;

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
        .stdout(words.file.try_clone().map_err(cannot)?)
        .stderr(words.file.try_clone().map_err(cannot)?);
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
                .details(words.read())
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

/// What the daemon prints, so that a failed start can show it: its log file where that can be
/// opened, else a file without a name, because the daemon and not the client decides what its
/// directories look like.
struct LastWords {
    file: File,
    /// Where this start's lines begin.
    from: u64,
}

impl LastWords {
    fn open(layout: &Layout) -> io::Result<LastWords> {
        let log = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(layout.log());
        if let Ok(file) = log {
            let from = file.metadata()?.len();
            return Ok(LastWords { file, from });
        }
        let name = c"bangerd-start";
        let memory = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(LastWords {
            file: memory.into(),
            from: 0,
        })
    }

    fn read(&mut self) -> Vec<String> {
        tail(&mut self.file, self.from)
    }
}

/// The last lines of what was written after `from`.
fn tail(file: &mut File, from: u64) -> Vec<String> {
    let mut read = || -> io::Result<Vec<u8>> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
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
    async fn a_started_daemon_has_nothing_of_the_client() {
        let directory = tempfile::tempdir().unwrap();
        // Not close-on-exec, as a shell's redirection would be.
        let (inherited, _other) = rustix::pipe::pipe().unwrap();
        let environment = script(
            directory.path(),
            "#!/bin/sh\nls /proc/self/fd; pwd; cat /proc/self/stat; echo \"$BANGER_ROOT\"; exit 1\n",
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
        let session: u32 = stat[5].parse().unwrap();
        assert_ne!(
            session,
            rustix::process::getsid(None)
                .unwrap()
                .as_raw_nonzero()
                .get() as u32
        );
        assert_eq!(stat[6], "0", "it has a controlling terminal");
        assert_eq!(Path::new(&rest[2]), directory.path());
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut file = tempfile::tempfile().unwrap();
        for n in 0..50 {
            writeln!(file, "line {n}").unwrap();
        }
        let lines = tail(&mut file, 0);
        assert_eq!(lines.len(), LOG_LINES);
        assert_eq!(lines.last().unwrap(), "line 49");
    }
}
