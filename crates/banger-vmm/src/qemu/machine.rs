//! One running QEMU process.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use banger_host::process::{Handle, Identity};
use futures_util::future::{BoxFuture, FutureExt};
use rustix::fs::{FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::command_line;
use super::exit::{Evidence, Shutdown, judge, with_last_words};
use super::qmp::{Qmp, QmpError};
use crate::jail::{self, KILL_LIMIT, Launched};
use crate::log::{BoundedLog, DEFAULT_CAP, DEFAULT_RATE, pump, read_tail};
use crate::socket::JailDirectory;
use crate::{
    Exit, GuestStream, Machine, MachineConfig, MachineRecord, VmmError, console, jail_path,
};

/// Between two looks at whether QEMU has made its sockets.
const SOCKET_POLL: Duration = Duration::from_millis(2);
/// QEMU ends within milliseconds of SIGTERM unless its storage hangs.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// After the process's end, for its last words to be read.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Lines of QEMU's own log quoted in an error.
const LAST_WORDS: usize = 5;
/// Bytes of console looked at for a panic and for a tail.
const CONSOLE_TAIL: u64 = 64 << 10;

/// Log files and the reading end of QEMU's stdout and stderr.
pub(super) struct Streams {
    console: BoundedLog,
    vmm: BoundedLog,
    fifo: pipe::Receiver,
}

impl Streams {
    /// For a new process: fresh logs and a new FIFO.
    pub(super) fn create(directory: &JailDirectory, cap: u64) -> io::Result<Self> {
        mknodat(
            directory.fd(),
            jail_path::VMM_FIFO,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )?;
        Self::open(directory, cap, true)
    }

    /// For one that runs: its logs go on.
    fn reopen(directory: &JailDirectory, cap: u64) -> io::Result<Self> {
        Self::open(directory, cap, false)
    }

    fn open(directory: &JailDirectory, cap: u64, truncate: bool) -> io::Result<Self> {
        let log = |name, cap| BoundedLog::open(directory.fd(), name, cap, truncate);
        let fifo = jail::open_fifo(directory, jail_path::VMM_FIFO)?;
        Ok(Self {
            console: log(jail_path::CONSOLE_LOG, cap)?,
            vmm: log(jail_path::VMM_LOG, DEFAULT_CAP)?,
            fifo: pipe::Receiver::from_owned_fd_unchecked(fifo)?,
        })
    }
}

/// Between two looks for room for a write that found none.
const ROOM_PAUSE: Duration = Duration::from_secs(2);

/// The write is tried again without any after so long: a quota, say, shows in no free space.
const ROOM_RETRY: Duration = Duration::from_secs(60);

/// Bytes free that are some room.
const ROOM: u64 = 4 << 20;

/// The tasks that read from one process, ended when dropped.
struct Readers {
    stop: watch::Sender<bool>,
    log: JoinHandle<()>,
    console: Option<JoinHandle<()>>,
    qmp: Option<JoinHandle<()>>,
}

impl Readers {
    fn start(vmm: BoundedLog, fifo: pipe::Receiver) -> Self {
        let (stop, stopped) = watch::channel(false);
        let log = tokio::spawn(pump(fifo, vmm, DEFAULT_RATE, stopped));
        Self {
            stop,
            log,
            console: None,
            qmp: None,
        }
    }

    fn read_console(&mut self, stream: UnixStream, log: BoundedLog) {
        let stopped = self.stop.subscribe();
        self.console = Some(tokio::spawn(pump(stream, log, DEFAULT_RATE, stopped)));
    }

    fn tasks(&mut self) -> impl Iterator<Item = &mut JoinHandle<()>> {
        std::iter::once(&mut self.log)
            .chain(&mut self.console)
            .chain(&mut self.qmp)
    }

    /// Takes what the ended process left in its pipe and sockets. True when all was read, which
    /// it is not where the machine was dropped before.
    async fn finish(&mut self) -> bool {
        self.stop.send_replace(true);
        let mut complete = true;
        for task in self.tasks() {
            let joined = tokio::time::timeout(DRAIN_LIMIT, task).await;
            complete &= matches!(joined, Ok(Ok(())));
        }
        complete
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for task in self.tasks() {
            task.abort();
        }
    }
}

/// A machine that is attached but whose process is still the launch's to kill.
pub(super) struct Starting {
    record: MachineRecord,
    directory: JailDirectory,
    qmp: Qmp,
    readers: Readers,
}

/// A machine that runs.
pub(super) struct QemuMachine {
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<Exit>>,
    readers: Vec<AbortHandle>,
    /// Kept open, since QEMU tells its end there, and closed with the machine.
    _control: Arc<Qmp>,
}

struct Shared {
    record: MachineRecord,
    directory: JailDirectory,
    handle: Handle,
    killed: AtomicBool,
}

impl QemuMachine {
    /// Attaches to a QEMU just launched and lets it run.
    pub(super) async fn start(
        config: MachineConfig,
        vmm_version: String,
        directory: JailDirectory,
        streams: Streams,
        launched: &Launched,
        answer_limit: Duration,
    ) -> Result<Starting, VmmError> {
        let mut readers = Readers::start(streams.vmm, streams.fifo);
        let Some(handle) = launched.handle() else {
            return Err(VmmError::Gone);
        };
        let identity = handle.identity();
        let work = async {
            let api = wait_for_socket(&directory, identity.pid).await?;
            let qmp = attach(api, &mut readers, answer_limit).await?;
            let console =
                connect_existing(&directory, jail_path::CONSOLE_SOCKET, identity.pid).await?;
            readers.read_console(console, streams.console);
            qmp.execute("cont", answer_limit)
                .await
                .map_err(launch_error)?;
            Ok(qmp)
        };
        let attached = tokio::select! {
            // A process that ended explains every other failure.
            biased;
            _ = handle.ended() => None,
            result = work => Some(result),
        };
        let qmp = match attached {
            Some(Ok(qmp)) => qmp,
            Some(Err(error)) => {
                // The failure and the end may be one event seen twice.
                let ended = tokio::time::timeout(Duration::from_millis(100), handle.ended()).await;
                if ended.is_err() {
                    return Err(error);
                }
                return Err(early_end(handle, &directory, &mut readers).await);
            }
            None => return Err(early_end(handle, &directory, &mut readers).await),
        };
        Ok(Starting {
            record: MachineRecord {
                vmm: "qemu".into(),
                vmm_version,
                config,
                pid: identity.pid,
                start_time: identity.start_time,
            },
            directory,
            qmp,
            readers,
        })
    }

    /// Attaches to a process launched by an earlier daemon.
    pub(super) async fn adopt(
        record: MachineRecord,
        console_cap: u64,
        answer_limit: Duration,
    ) -> Result<Option<Arc<Self>>, VmmError> {
        let path = record.config.directory.clone();
        let io = |deed| {
            let path = path.clone();
            move |source| VmmError::Io { deed, path, source }
        };
        let identity = Identity {
            pid: record.pid,
            start_time: record.start_time,
        };
        let Some(handle) = Handle::open(identity).map_err(io("open the VMM process of"))? else {
            return Ok(None);
        };
        let directory = JailDirectory::open(&path).map_err(io("open"))?;
        let streams = Streams::reopen(&directory, console_cap).map_err(io("open log files in"))?;
        let mut readers = Readers::start(streams.vmm, streams.fifo);
        let work = async {
            let api = connect_existing(&directory, jail_path::API_SOCKET, identity.pid).await?;
            let qmp = attach(api, &mut readers, answer_limit).await?;
            let answer = |result: Result<Value, QmpError>| result.map_err(launch_error);
            let name = answer(qmp.execute("query-name", answer_limit).await)?;
            let status = answer(qmp.execute("query-status", answer_limit).await)?;
            let console =
                connect_existing(&directory, jail_path::CONSOLE_SOCKET, identity.pid).await?;
            readers.read_console(console, streams.console);
            Ok((qmp, name, status))
        };
        let (qmp, name, status) = tokio::select! {
            biased;
            ended = handle.ended() => {
                ended.map_err(io("watch the VMM process of"))?;
                return Ok(None);
            }
            result = work => result?,
        };
        let expected = command_line::machine_name(&record.config);
        if name.get("name").and_then(Value::as_str) != Some(expected.as_str()) {
            return Ok(None);
        }
        if status.get("status").and_then(Value::as_str) == Some("prelaunch") {
            // Its daemon died between launching it and letting it run: it never was a machine.
            handle
                .signal(Signal::KILL)
                .map_err(io("kill the VMM process of"))?;
            return match tokio::time::timeout(KILL_LIMIT, handle.ended()).await {
                Ok(ended) => ended.map(|()| None).map_err(io("watch the VMM process of")),
                Err(_) => Err(VmmError::Timeout {
                    what: "killing QEMU",
                    after: KILL_LIMIT,
                }),
            };
        }
        if status.get("status").and_then(Value::as_str) == Some("io-error") {
            qmp.is_starved();
        }
        let starting = Starting {
            record,
            directory,
            qmp,
            readers,
        };
        Ok(Some(starting.supervise(handle)))
    }

    async fn end(&self) -> Result<(), VmmError> {
        if self.exit.borrow().is_some() {
            return Ok(());
        }
        let io = |source| VmmError::Io {
            deed: "kill the VMM process of",
            path: self.shared.directory.path().to_owned(),
            source,
        };
        // Only an end that has not come yet is ours.
        if !self.shared.handle.identity().is_alive().map_err(io)? {
            return self.ended_within(KILL_LIMIT).await;
        }
        self.shared.killed.store(true, Ordering::Release);
        // SIGTERM lets QEMU finish the writes it has accepted.
        for (signal, limit) in [(Signal::TERM, TERM_GRACE), (Signal::KILL, KILL_LIMIT)] {
            self.shared.handle.signal(signal).map_err(io)?;
            if self.ended_within(limit).await.is_ok() {
                return Ok(());
            }
        }
        Err(VmmError::Timeout {
            what: "killing QEMU",
            after: KILL_LIMIT,
        })
    }

    async fn ended_within(&self, limit: Duration) -> Result<(), VmmError> {
        match tokio::time::timeout(limit, self.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(VmmError::Timeout {
                what: "the end of QEMU",
                after: limit,
            }),
        }
    }

    async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Unknown),
            // The runtime that watched is going down.
            Err(_) => Exit::Unknown,
        }
    }
}

impl Starting {
    /// The launch succeeded: the process now ends only by itself or by [`Machine::kill`].
    pub(super) fn watch(self, launched: Launched) -> Result<Arc<dyn Machine>, VmmError> {
        let handle = launched.keep().ok_or(VmmError::Gone)?;
        Ok(self.supervise(handle))
    }

    fn supervise(mut self, handle: Handle) -> Arc<QemuMachine> {
        let qmp = Arc::new(self.qmp);
        let resuming = tokio::spawn(resume_when_there_is_room(
            Arc::downgrade(&qmp),
            qmp.watch_starved(),
            self.directory.path().to_owned(),
            self.record.pid,
        ));
        let readers = self
            .readers
            .tasks()
            .map(|task| task.abort_handle())
            .chain([resuming.abort_handle()])
            .collect();
        let shared = Arc::new(Shared {
            record: self.record,
            directory: self.directory,
            handle,
            killed: AtomicBool::new(false),
        });
        let (known, exit) = watch::channel(None);
        tokio::spawn(supervise(
            Arc::clone(&shared),
            qmp.watch_shutdown(),
            self.readers,
            known,
        ));
        Arc::new(QemuMachine {
            shared,
            exit,
            readers,
            _control: qmp,
        })
    }
}

/// Lets a machine that QEMU stopped for want of room go on: it repeats the write that found none,
/// so nothing is lost while it waits. Where the file system says that it is full, that is asked
/// for again but rarely: whoever looks must find a machine that stands still, not one that twitches.
async fn resume_when_there_is_room(
    qmp: Weak<Qmp>,
    mut starved: watch::Receiver<bool>,
    directory: PathBuf,
    pid: i32,
) {
    while starved.wait_for(|starved| *starved).await.is_ok() {
        tracing::warn!(pid, "a machine waits for room on the disk of the host");
        let mut waited = Duration::ZERO;
        while *starved.borrow() {
            tokio::time::sleep(ROOM_PAUSE).await;
            waited += ROOM_PAUSE;
            if waited < ROOM_RETRY && !has_room(&directory) {
                continue;
            }
            waited = Duration::ZERO;
            let Some(qmp) = qmp.upgrade() else { return };
            if let Err(error) = qmp.execute("cont", ROOM_PAUSE).await {
                tracing::debug!(pid, %error, "a machine that waits for room was not resumed");
            }
        }
    }
}

/// One that cannot tell may have some.
fn has_room(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).map_or(true, |disk| {
        disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM
    })
}

/// Waits for the process's end, whoever still holds the machine: a child must be reaped and its
/// cgroup removed in any case.
async fn supervise(
    shared: Arc<Shared>,
    shutdown: watch::Receiver<Option<Shutdown>>,
    mut readers: Readers,
    known: watch::Sender<Option<Exit>>,
) {
    while let Err(error) = shared.handle.ended().await {
        tracing::warn!(pid = shared.record.pid, %error, "cannot watch a VMM process");
        if !shared.handle.identity().is_alive().unwrap_or(false) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let watched = readers.finish().await;
    let status = shared.handle.reap().unwrap_or_else(|error| {
        tracing::warn!(pid = shared.record.pid, %error, "cannot take a VMM's exit status");
        None
    });
    let console = shared.console();
    let exit = judge(&Evidence {
        killed: shared.killed.load(Ordering::Acquire),
        shutdown: *shutdown.borrow(),
        watched,
        status,
        panic: console::panic_line(&console).map(str::to_owned),
        last_words: console::vmm_tail(shared.directory.path(), LAST_WORDS),
    });
    if let Some(name) = shared.record.config.jail.cgroup.clone() {
        jail::remove_cgroup(name).await;
    }
    known.send_replace(Some(exit));
}

impl Shared {
    fn console(&self) -> String {
        read_tail(self.directory.fd(), jail_path::CONSOLE_LOG, CONSOLE_TAIL)
            .map(|bytes| console::printable(&bytes))
            .unwrap_or_default()
    }
}

impl Drop for QemuMachine {
    /// Lets go of the sockets, so that somebody else can adopt the machine.
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Machine for QemuMachine {
    fn record(&self) -> &MachineRecord {
        &self.shared.record
    }

    fn connect(&self, _port: u32) -> BoxFuture<'_, Result<Box<dyn GuestStream>, VmmError>> {
        async move {
            if self.exit.borrow().is_some() {
                return Err(VmmError::Gone);
            }
            let Shared {
                record, directory, ..
            } = &*self.shared;
            match directory.connect(jail_path::AGENT_SOCKET, record.pid).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn GuestStream>),
                Err(source) if is_absent(&source) => Err(VmmError::Gone),
                Err(source) => Err(VmmError::Io {
                    deed: "connect to the agent's socket in",
                    path: directory.path().to_owned(),
                    source,
                }),
            }
        }
        .boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Exit> {
        self.ended().boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        self.end().boxed()
    }

    fn console_tail(&self, lines: usize) -> String {
        console::last_lines(&self.shared.console(), lines)
    }
}

/// The listener went away with its process.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Tries until QEMU has come so far as to listen. The caller bounds the time.
async fn wait_for_socket(directory: &JailDirectory, pid: i32) -> Result<UnixStream, VmmError> {
    loop {
        match directory.connect(jail_path::API_SOCKET, pid).await {
            Ok(stream) => return Ok(stream),
            Err(error) if is_absent(&error) => tokio::time::sleep(SOCKET_POLL).await,
            Err(source) => {
                return Err(VmmError::Io {
                    deed: "connect to the control socket in",
                    path: directory.path().to_owned(),
                    source,
                });
            }
        }
    }
}

async fn connect_existing(
    directory: &JailDirectory,
    name: &'static str,
    pid: i32,
) -> Result<UnixStream, VmmError> {
    directory
        .connect(name, pid)
        .await
        .map_err(|source| match source.kind() {
            // As many connections as it lets wait do wait, and it takes none: those of a daemon
            // that was not answered, and went.
            std::io::ErrorKind::WouldBlock => VmmError::Timeout {
                what: "taking a connection by QEMU",
                after: Duration::ZERO,
            },
            _ => VmmError::Io {
                deed: "connect to",
                path: directory.path().join(name),
                source,
            },
        })
}

async fn attach(
    stream: UnixStream,
    readers: &mut Readers,
    answer_limit: Duration,
) -> Result<Qmp, VmmError> {
    let (reader, writer) = stream.into_split();
    let (qmp, reading) = Qmp::connect(reader, writer, answer_limit)
        .await
        .map_err(launch_error)?;
    readers.qmp = Some(reading);
    Ok(qmp)
}

fn launch_error(error: QmpError) -> VmmError {
    match error {
        QmpError::Timeout { after, .. } => VmmError::Timeout {
            what: "an answer of QEMU's",
            after,
        },
        error => VmmError::Launch {
            reason: error.to_string(),
        },
    }
}

/// QEMU ended before it ran: its exit status and what it said.
async fn early_end(handle: &Handle, directory: &JailDirectory, readers: &mut Readers) -> VmmError {
    readers.finish().await;
    let status = handle.reap().ok().flatten();
    let reason = match judge(&Evidence {
        watched: true,
        status,
        ..Evidence::default()
    }) {
        Exit::Died { reason } => reason,
        _ => "QEMU ended".into(),
    };
    let words = read_tail(directory.fd(), jail_path::VMM_LOG, 4 << 10)
        .map(|bytes| console::last_words(&bytes, LAST_WORDS))
        .unwrap_or_default();
    tracing::debug!(fd = directory.fd().as_raw_fd(), %reason, "QEMU ended at start");
    VmmError::Launch {
        reason: with_last_words(reason, &words),
    }
}
