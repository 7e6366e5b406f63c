//! Guests in this process: the real end of the link and the real messages, on a fake machine.
//!
//! What a "program" does is its first word: `cat`, `print TEXT`, `exit N`, `describe` (its
//! environment), `wait` (until a signal or a hang-up ends it).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use banger_protocol::agent::{
    AgentError, AgentErrorKind, AgentEvent, AgentReply, AgentState, BootConfig, BootReport, Down,
    ExecEntry, ExecList, ExecStarted, Health, Init, MainState, MainStatus, Nothing, OpenRequest,
    Phase, ProcessSpec,
};
use banger_protocol::build::this_build;
use banger_protocol::bytes::ByteString;
use banger_protocol::exec::{Channel, Decoder, Direction, ExitStatus, Frame};
use banger_protocol::link::{FrameBuf, Identity, Incoming, LinkStream, StreamWriter, serve};
use banger_vmm::fake::{FakeGuest, FakeVmm};
use banger_vmm::{Capabilities, Machine, MachineConfig, MachineRecord, Vmm, VmmError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};

/// How the guests of a world behave; shared by all of them.
#[derive(Clone, Default)]
pub struct Guests {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: Mutex<HashMap<String, Arc<Guest>>>,
    launches: Mutex<HashMap<String, u64>>,
    behaviour: Mutex<Behaviour>,
    serial: AtomicU64,
}

#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Nobody opens the agent's port.
    pub deaf: bool,
    /// Booting is answered by this error.
    pub refuses_boot: Option<String>,
    /// Instead of becoming ready it ends so.
    pub ends_at_boot: Option<Down>,
    /// A boot is never answered.
    pub hangs_at_boot: bool,
    /// A request to end is answered and forgotten.
    pub ignores_shutdown: bool,
    /// The image has systemd.
    pub has_init: bool,
}

/// One booted machine.
pub struct Guest {
    machine: FakeGuest,
    launch: u64,
    behaviour: Behaviour,
    boot_id: [u8; 16],
    pub boot: Mutex<Option<BootConfig>>,
    processes: Mutex<HashMap<u64, Arc<Process>>>,
    main: Mutex<Option<Arc<Process>>>,
    changed: watch::Sender<u64>,
    cut: Notify,
    /// Requests are not answered.
    pub silent: AtomicBool,
}

/// A "process".
pub struct Process {
    id: u64,
    spec: ProcessSpec,
    /// For whoever is joined.
    out: Mutex<VecDeque<Frame>>,
    /// All output, as the log of `main` keeps it.
    log: Mutex<Vec<u8>>,
    status: Mutex<Option<ExitStatus>>,
    joined: AtomicBool,
    changed: watch::Sender<u64>,
    /// What clients sent.
    pub received: Mutex<Vec<Frame>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Guests {
    pub fn vmm(&self) -> FakeVmm {
        let guests = self.clone();
        FakeVmm::new(move |machine, io| guests.clone().connection(machine, io).boxed())
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.inner.behaviour) = behaviour;
    }

    /// The latest machine of a VM.
    pub fn of(&self, id: &str) -> Arc<Guest> {
        lock(&self.inner.by_id).get(id).cloned().expect("a guest")
    }

    async fn connection(self, machine: FakeGuest, io: DuplexStream) {
        let guest = self.guest(machine);
        if guest.behaviour.deaf {
            return std::future::pending().await;
        }
        let identity = Identity {
            boot_id: guest.boot_id,
        };
        let server = guest.clone();
        let served = serve(io, identity, move |incoming| {
            tokio::spawn(server.clone().stream(incoming));
        });
        tokio::select! {
            _ = served => {}
            () = guest.cut.notified() => {}
        }
    }

    /// The guest of the latest launch; made at its first connection.
    fn guest(&self, machine: FakeGuest) -> Arc<Guest> {
        let id = machine.config().id.clone();
        let launch = lock(&self.inner.launches)
            .get(&id)
            .copied()
            .unwrap_or_default();
        let mut by_id = lock(&self.inner.by_id);
        if let Some(known) = by_id.get(&id)
            && known.launch == launch
        {
            return known.clone();
        }
        let serial = self.inner.serial.fetch_add(1, Ordering::SeqCst) + 1;
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&serial.to_le_bytes());
        machine.print(&format!("Linux version 6.1 boot {serial}\n"));
        let guest = Arc::new(Guest {
            machine,
            launch,
            behaviour: lock(&self.inner.behaviour).clone(),
            boot_id,
            boot: Mutex::default(),
            processes: Mutex::default(),
            main: Mutex::default(),
            changed: watch::Sender::new(0),
            cut: Notify::new(),
            silent: AtomicBool::new(false),
        });
        by_id.insert(id, guest.clone());
        guest
    }
}

/// The fake driver, which tells the guests of a launch from those of the one before.
#[derive(Clone)]
pub struct CountingVmm {
    pub inner: FakeVmm,
    pub guests: Guests,
}

impl Vmm for CountingVmm {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn launch(&self, config: MachineConfig) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        let mut launches = lock(&self.guests.inner.launches);
        *launches.entry(config.id.clone()).or_default() += 1;
        drop(launches);
        self.inner.launch(config)
    }

    fn adopt(
        &self,
        record: MachineRecord,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        self.inner.adopt(record)
    }
}

async fn reply<T: Serialize>(stream: &mut LinkStream, reply: T) {
    let line = AgentReply::Ok(reply).to_line();
    let _ = stream.write_all(&line).await;
}

/// The last words on a stream: without its end they would be taken back.
async fn reply_last<T: Serialize>(stream: &mut LinkStream, last: T) {
    reply(stream, last).await;
    let _ = stream.shutdown().await;
}

async fn refuse(stream: &mut LinkStream, kind: AgentErrorKind, message: &str) {
    let line = AgentReply::<Nothing>::Error(AgentError::new(kind, message)).to_line();
    let _ = stream.write_all(&line).await;
    let _ = stream.shutdown().await;
}

impl Guest {
    /// Ends the connection as a crash of the link would; the guest goes on.
    pub fn cut_link(&self) {
        self.cut.notify_one();
    }

    pub fn power_off(&self) {
        self.machine.power_off();
    }

    pub fn reboot(&self) {
        self.machine.reboot();
    }

    pub fn main(&self) -> Arc<Process> {
        lock(&self.main).clone().expect("a main")
    }

    pub fn process(&self, id: u64) -> Arc<Process> {
        lock(&self.processes).get(&id).cloned().expect("a process")
    }

    fn status(&self) -> MainStatus {
        match &*lock(&self.main) {
            None => MainStatus {
                state: MainState::Waiting,
                written: 0,
                attached: false,
            },
            Some(main) => main.main_status(),
        }
    }

    fn spawn(&self, spec: ProcessSpec) -> Arc<Process> {
        let mut processes = lock(&self.processes);
        let process = Process::start(processes.len() as u64 + 1, spec);
        processes.insert(process.id, process.clone());
        process
    }

    async fn stream(self: Arc<Self>, mut incoming: Incoming) {
        let Ok(request) = incoming.request().await else {
            return;
        };
        let request: OpenRequest = serde_json::from_slice(&request).unwrap();
        let mut stream = incoming.stream;
        if self.silent.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        match request {
            OpenRequest::Boot(config) => self.boot(&mut stream, *config).await,
            OpenRequest::Health => {
                let health = Health {
                    state: AgentState::Ready,
                    uptime_ms: 1500,
                    build: this_build(),
                    report: None,
                };
                reply_last(&mut stream, health).await;
            }
            OpenRequest::Exec(spec) => {
                let process = self.spawn(spec);
                reply(&mut stream, ExecStarted { exec: process.id }).await;
                process.join(stream).await;
            }
            OpenRequest::ExecAttach { exec } => {
                let found = lock(&self.processes).get(&exec).cloned();
                match found {
                    None => refuse(&mut stream, AgentErrorKind::NotFound, "no such process").await,
                    Some(process) => {
                        reply(&mut stream, ExecStarted { exec }).await;
                        process.join(stream).await;
                    }
                }
            }
            OpenRequest::ExecList => {
                let list = lock(&self.processes)
                    .values()
                    .map(|process| process.entry())
                    .collect();
                reply_last(&mut stream, ExecList { execs: list }).await;
            }
            OpenRequest::MainStart(start) => {
                let main = {
                    let mut main = lock(&self.main);
                    if main
                        .as_ref()
                        .is_some_and(|main| lock(&main.status).is_none())
                    {
                        None
                    } else {
                        let process = Process::start(0, start.process);
                        *main = Some(process.clone());
                        Some(process)
                    }
                };
                let Some(main) = main else {
                    let kind = AgentErrorKind::WrongState;
                    return refuse(&mut stream, kind, "main runs already").await;
                };
                self.changed.send_modify(|changes| *changes += 1);
                tokio::spawn(self.clone().watch_main(main.clone()));
                if start.attach {
                    reply(&mut stream, main.main_status()).await;
                    main.join(stream).await;
                } else {
                    reply_last(&mut stream, main.main_status()).await;
                }
            }
            OpenRequest::MainAttach { .. } => {
                let main = lock(&self.main).clone();
                match main {
                    None => refuse(&mut stream, AgentErrorKind::WrongState, "no main").await,
                    Some(main) => {
                        reply(&mut stream, main.main_status()).await;
                        main.join(stream).await;
                    }
                }
            }
            OpenRequest::MainStatus => reply_last(&mut stream, self.status()).await,
            OpenRequest::MainLog(log) => {
                reply(&mut stream, self.status()).await;
                let main = lock(&self.main).clone();
                if let Some(main) = main {
                    main.send_log(stream, log.from.unwrap_or(0)).await;
                }
            }
            OpenRequest::Shutdown(_) => {
                reply_last(&mut stream, Nothing {}).await;
                if !self.behaviour.ignores_shutdown {
                    if let Some(main) = &*lock(&self.main) {
                        main.end(ExitStatus::Signal(15));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    self.power_off();
                }
            }
            OpenRequest::Events => {
                reply(&mut stream, Nothing {}).await;
                let mut changed = self.changed.subscribe();
                loop {
                    let event = AgentEvent::Main {
                        status: self.status(),
                    };
                    let mut line = serde_json::to_vec(&event).unwrap();
                    line.push(b'\n');
                    if stream.write_all(&line).await.is_err() || changed.changed().await.is_err() {
                        return;
                    }
                }
            }
            OpenRequest::Time { .. } | OpenRequest::Stats => {
                refuse(&mut stream, AgentErrorKind::InvalidRequest, "not here").await;
            }
        }
    }

    async fn boot(&self, stream: &mut LinkStream, config: BootConfig) {
        if self.behaviour.hangs_at_boot {
            return std::future::pending().await;
        }
        if let Some(reason) = &self.behaviour.refuses_boot {
            return refuse(stream, AgentErrorKind::BootFailed, reason).await;
        }
        match self.behaviour.ends_at_boot {
            Some(Down::PowerOff) => return self.power_off(),
            Some(Down::Reboot) => {
                self.machine.print("Kernel panic - not syncing: no root\n");
                return self.reboot();
            }
            None => {}
        }
        let image = match config.init {
            Init::Image => true,
            Init::Auto => self.behaviour.has_init,
            Init::Agent => false,
        };
        let report = BootReport {
            phases: vec![Phase {
                name: "kernel".to_owned(),
                end_us: 1000,
            }],
            init: image.then(|| ByteString(b"/sbin/init".to_vec())),
            kernel: "6.1".to_owned(),
            build: this_build(),
            warnings: Vec::new(),
        };
        *lock(&self.boot) = Some(config);
        reply_last(stream, report).await;
    }

    /// Tells events when `main` ends.
    async fn watch_main(self: Arc<Self>, main: Arc<Process>) {
        let mut changed = main.changed.subscribe();
        while lock(&main.status).is_none() {
            if changed.changed().await.is_err() {
                return;
            }
        }
        self.changed.send_modify(|changes| *changes += 1);
    }
}

impl Process {
    fn start(id: u64, spec: ProcessSpec) -> Arc<Process> {
        let process = Arc::new(Process {
            id,
            spec,
            out: Mutex::default(),
            log: Mutex::default(),
            status: Mutex::default(),
            joined: AtomicBool::new(false),
            changed: watch::Sender::new(0),
            received: Mutex::default(),
        });
        let words: Vec<String> = process
            .spec
            .argv
            .iter()
            .map(|word| String::from_utf8_lossy(&word.0).into_owned())
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["print", text] => {
                process.print(text.as_bytes());
                process.end(ExitStatus::Code(0));
            }
            ["exit", code] => process.end(ExitStatus::Code(code.parse().unwrap())),
            ["describe"] => {
                let spec = &process.spec;
                let env: Vec<String> = spec
                    .env
                    .iter()
                    .map(|variable| String::from_utf8_lossy(&variable.0).into_owned())
                    .collect();
                let text = format!(
                    "{} {:?} {:?}",
                    env.join(","),
                    spec.user,
                    spec.terminal.is_some()
                );
                process.print(text.as_bytes());
                process.end(ExitStatus::Code(0));
            }
            _ => {}
        }
        process
    }

    fn program(&self) -> &[u8] {
        self.spec.argv.first().map_or(b"", |word| &word.0)
    }

    pub fn print(&self, bytes: &[u8]) {
        lock(&self.log).extend_from_slice(bytes);
        lock(&self.out).push_back(Frame::Stdout(bytes.to_vec().into()));
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub fn end(&self, status: ExitStatus) {
        let mut known = lock(&self.status);
        if known.is_none() {
            *known = Some(status.clone());
            lock(&self.out).push_back(Frame::Exit(status));
        }
        drop(known);
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub fn is_joined(&self) -> bool {
        self.joined.load(Ordering::SeqCst)
    }

    pub fn status(&self) -> Option<ExitStatus> {
        lock(&self.status).clone()
    }

    fn entry(&self) -> ExecEntry {
        ExecEntry {
            exec: self.id,
            pid: 100,
            argv: self.spec.argv.clone(),
            attached: self.is_joined(),
            exited: self.status().is_some(),
        }
    }

    fn main_status(&self) -> MainStatus {
        MainStatus {
            state: match self.status() {
                None => MainState::Running { pid: 100 },
                Some(status) => MainState::Exited { status },
            },
            written: lock(&self.log).len() as u64,
            attached: self.is_joined(),
        }
    }

    async fn join(&self, stream: LinkStream) {
        self.joined.store(true, Ordering::SeqCst);
        let (mut reader, mut writer) = stream.into_split();
        let started = Frame::Started {
            exec: self.id,
            pid: 100,
        };
        let _ = send(&mut writer, &started).await;
        let mut changed = self.changed.subscribe();
        let mut decoder = Decoder::new(Direction::ClientToGuest);
        'joined: loop {
            while let Some(frame) = { lock(&self.out).pop_front() } {
                if send(&mut writer, &frame).await.is_err() {
                    lock(&self.out).push_front(frame);
                    break 'joined;
                }
                if matches!(frame, Frame::Exit(_)) {
                    let _ = writer.finish();
                    // What the client still sends is nobody's business.
                    while let Ok(Some(_)) = reader.read_chunk().await {}
                    break 'joined;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                piece = reader.read_chunk() => match piece {
                    Ok(Some(piece)) => {
                        decoder.push(piece);
                        while let Some(frame) = decoder.next_frame().unwrap() {
                            self.receive(frame);
                        }
                    }
                    Ok(None) | Err(_) => break 'joined,
                }
            }
        }
        self.joined.store(false, Ordering::SeqCst);
    }

    fn receive(&self, frame: Frame) {
        lock(&self.received).push(frame.clone());
        match (&frame, self.program()) {
            (Frame::Stdin(bytes), b"cat") => {
                self.print(bytes);
                let credit = Frame::StdinCredit(u32::try_from(bytes.len()).unwrap());
                lock(&self.out).push_back(credit);
            }
            (Frame::StdinEof, b"cat") => self.end(ExitStatus::Code(0)),
            (Frame::Signal(number), _) => {
                self.end(ExitStatus::Signal(i32::try_from(*number).unwrap()));
            }
            (Frame::Hangup, _) => self.end(ExitStatus::Signal(1)),
            _ => {}
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    async fn send_log(&self, stream: LinkStream, from: u64) {
        let (_reader, mut writer) = stream.into_split();
        let mut at = usize::try_from(from).unwrap();
        let mut changed = self.changed.subscribe();
        loop {
            // Its end is looked at first, so that nothing written before it is missed.
            let ended = self.status().is_some();
            let piece = lock(&self.log)[at..].to_vec();
            for part in piece.chunks(10_000) {
                if send(&mut writer, &Frame::Stdout(part.to_vec().into()))
                    .await
                    .is_err()
                {
                    return;
                }
                at += part.len();
            }
            if ended {
                let _ = writer.finish();
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn send(writer: &mut StreamWriter, frame: &Frame) -> std::io::Result<()> {
    writer
        .write_frame(FrameBuf::copy_of(&frame.to_bytes()))
        .await
}

/// A client of exec: what it got, and its end of the connection.
pub struct Client {
    io: DuplexStream,
    decoder: Decoder,
}

impl Client {
    /// Joins a process and returns the client's end.
    pub fn join(
        exec: bangerd::exec::GuestExec,
    ) -> (Client, tokio::task::JoinHandle<bangerd::exec::JoinEnd>) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let joined = tokio::spawn(exec.join(theirs));
        let client = Client {
            io: ours,
            decoder: Decoder::new(Direction::GuestToClient),
        };
        (client, joined)
    }

    pub async fn send(&mut self, frame: Frame) {
        self.io.write_all(&frame.to_bytes()).await.unwrap();
    }

    /// The next frame; `None` at the end. Gives credit back as a client does.
    pub async fn next(&mut self) -> Option<Frame> {
        use tokio::io::AsyncReadExt;
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let credit = match &frame {
                    Frame::Stdout(bytes) => Some((Channel::Stdout, bytes.len())),
                    Frame::Stderr(bytes) => Some((Channel::Stderr, bytes.len())),
                    _ => None,
                };
                if let Some((channel, length)) = credit.filter(|(_, length)| *length > 0) {
                    let bytes = u32::try_from(length).unwrap();
                    let credit = Frame::Credit { channel, bytes }.to_bytes();
                    let _ = self.io.write_all(&credit).await;
                }
                return Some(frame);
            }
            let mut piece = vec![0; 64 << 10];
            let count = tokio::time::timeout(Duration::from_secs(20), self.io.read(&mut piece))
                .await
                .expect("a frame in time")
                .unwrap();
            if count == 0 {
                return None;
            }
            piece.truncate(count);
            self.decoder.push(piece.into());
        }
    }

    /// Everything until the exit status: output, and the status.
    pub async fn rest(&mut self) -> (Vec<u8>, Option<ExitStatus>) {
        let mut output = Vec::new();
        while let Some(frame) = self.next().await {
            match frame {
                Frame::Stdout(bytes) | Frame::Stderr(bytes) => output.extend_from_slice(&bytes),
                Frame::Exit(status) => return (output, Some(status)),
                _ => {}
            }
        }
        (output, None)
    }

    /// The next output.
    pub async fn output(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) => return bytes.to_vec(),
                Some(Frame::Exit(status)) => panic!("it ended: {status:?}"),
                Some(_) => {}
                None => panic!("the connection ended"),
            }
        }
    }
}
