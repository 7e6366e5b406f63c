//! A driver without a VMM, for tests of whatever sits above this crate.
//!
//! A fake machine is a task per connection that runs a function the test gives: the "guest". It
//! lives in a registry shared by all clones of the driver, so that dropping everything and
//! adopting again works within one process. Each call can be told to fail, to stall, or to take
//! the machine with it.
//!
//! Limits: nothing is executed and no file is read; process ids are above what Linux hands out,
//! so that a signal sent to one reaches nobody.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{
    Accelerator, Capabilities, Exit, GuestStream, Machine, MachineConfig, MachineRecord, Vmm,
    VmmError, console, validate,
};

/// Above `PID_MAX_LIMIT` (4,194,304).
static NEXT_PID: AtomicI32 = AtomicI32::new(5_000_000);

/// What plays the guest's agent on one connection.
pub type Guest = dyn Fn(FakeGuest, DuplexStream) -> BoxFuture<'static, ()> + Send + Sync;

/// A call that can go wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Launch,
    Adopt,
    Connect,
    Kill,
}

/// How it goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call returns this error text.
    Fail(String),
    /// The call never returns.
    Stall,
    /// The machine dies of this reason during the call.
    Die(String),
}

/// The driver; clones share everything.
#[derive(Clone)]
pub struct FakeVmm {
    shared: Arc<Shared>,
}

struct Shared {
    guest: Box<Guest>,
    machines: Mutex<HashMap<i32, Arc<State>>>,
    faults: Mutex<HashMap<Call, Fault>>,
}

struct State {
    record: MachineRecord,
    exit: watch::Sender<Option<Exit>>,
    console: Mutex<Vec<u8>>,
    connections: Mutex<JoinSet<()>>,
    /// Alive while a client holds its end of the pipe.
    client: Mutex<Weak<()>>,
}

/// What the guest function sees of its machine.
#[derive(Clone)]
pub struct FakeGuest {
    state: Arc<State>,
}

impl FakeGuest {
    pub fn config(&self) -> &MachineConfig {
        &self.state.record.config
    }

    /// Prints on the serial console.
    pub fn print(&self, text: &str) {
        lock(&self.state.console).extend_from_slice(text.as_bytes());
    }

    pub fn power_off(&self) {
        self.state.end(Exit::PowerOff);
    }

    pub fn reboot(&self) {
        self.state.end(Exit::Reboot);
    }
}

impl State {
    /// The first end counts.
    fn end(&self, exit: Exit) {
        let ended = self.exit.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(exit);
            first
        });
        if ended {
            lock(&self.connections).abort_all();
        }
    }

    fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicking test must not turn every other failure into a second panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeVmm {
    pub fn new(
        guest: impl Fn(FakeGuest, DuplexStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                guest: Box::new(guest),
                machines: Mutex::default(),
                faults: Mutex::default(),
            }),
        }
    }

    /// From now on this call goes wrong, until told otherwise with `None`.
    pub fn set_fault(&self, call: Call, fault: Option<Fault>) {
        let mut faults = lock(&self.shared.faults);
        match fault {
            Some(fault) => faults.insert(call, fault),
            None => faults.remove(&call),
        };
    }

    /// Ids of the machines that run.
    pub fn running(&self) -> Vec<String> {
        let machines = lock(&self.shared.machines);
        let mut ids: Vec<String> = machines
            .values()
            .filter(|state| state.is_running())
            .map(|state| state.record.config.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Ends the running machine of this id; false when there is none.
    pub fn end(&self, id: &str, exit: Exit) -> bool {
        let found = lock(&self.shared.machines)
            .values()
            .find(|state| state.record.config.id == id && state.is_running())
            .cloned();
        match found {
            Some(state) => {
                state.end(exit);
                true
            }
            None => false,
        }
    }

    async fn meet(&self, call: Call, state: Option<&State>) -> Result<(), VmmError> {
        let fault = lock(&self.shared.faults).get(&call).cloned();
        match fault {
            None => Ok(()),
            Some(Fault::Fail(reason)) => Err(VmmError::Launch { reason }),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Die(reason)) => {
                if let Some(state) = state {
                    state.end(Exit::Died {
                        reason: reason.clone(),
                    });
                }
                match call {
                    Call::Launch => Err(VmmError::Launch { reason }),
                    Call::Adopt | Call::Connect | Call::Kill => Err(VmmError::Gone),
                }
            }
        }
    }

    fn machine(&self, state: Arc<State>) -> Arc<dyn Machine> {
        Arc::new(FakeMachine {
            vmm: self.clone(),
            state,
        })
    }
}

impl Vmm for FakeVmm {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            accelerators: vec![Accelerator::Kvm, Accelerator::Tcg],
            snapshot: false,
            fork: false,
            balloon: false,
            max_vcpus: 64,
        }
    }

    fn launch(&self, config: MachineConfig) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        async move {
            validate::check(&config, self.capabilities().max_vcpus)?;
            self.meet(Call::Launch, None).await?;
            let pid = NEXT_PID.fetch_add(1, Ordering::Relaxed);
            let state = Arc::new(State {
                record: MachineRecord {
                    vmm: self.name().into(),
                    vmm_version: "1".into(),
                    config,
                    pid,
                    start_time: u64::from(pid.unsigned_abs()),
                },
                exit: watch::Sender::new(None),
                console: Mutex::default(),
                connections: Mutex::default(),
                client: Mutex::default(),
            });
            lock(&self.shared.machines).insert(pid, Arc::clone(&state));
            Ok(self.machine(state))
        }
        .boxed()
    }

    fn adopt(
        &self,
        record: MachineRecord,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        async move {
            let found = lock(&self.shared.machines).get(&record.pid).cloned();
            self.meet(Call::Adopt, found.as_deref()).await?;
            Ok(found
                .filter(|state| state.record == record && state.is_running())
                .map(|state| self.machine(state)))
        }
        .boxed()
    }
}

struct FakeMachine {
    vmm: FakeVmm,
    state: Arc<State>,
}

impl Machine for FakeMachine {
    fn record(&self) -> &MachineRecord {
        &self.state.record
    }

    fn connect(&self, _port: u32) -> BoxFuture<'_, Result<Box<dyn GuestStream>, VmmError>> {
        async move {
            self.vmm.meet(Call::Connect, Some(&self.state)).await?;
            if !self.state.is_running() {
                return Err(VmmError::Gone);
            }
            let mut client = lock(&self.state.client);
            if client.upgrade().is_some() {
                return Err(VmmError::Io {
                    deed: "connect to the agent of",
                    path: self.state.record.config.directory.clone(),
                    source: io::Error::from(io::ErrorKind::WouldBlock),
                });
            }
            let token = Arc::new(());
            *client = Arc::downgrade(&token);
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let guest = FakeGuest {
                state: Arc::clone(&self.state),
            };
            let mut connections = lock(&self.state.connections);
            // Finished ones are of no interest any more.
            while connections.try_join_next().is_some() {}
            connections.spawn((self.vmm.shared.guest)(guest, theirs));
            Ok(Box::new(Client {
                stream: ours,
                _token: token,
            }) as Box<dyn GuestStream>)
        }
        .boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Exit> {
        async move {
            let mut exit = self.state.exit.subscribe();
            match exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.clone().unwrap_or(Exit::Unknown),
                Err(_) => Exit::Unknown,
            }
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        async move {
            if !self.state.is_running() {
                return Ok(());
            }
            self.vmm.meet(Call::Kill, Some(&self.state)).await?;
            self.state.end(Exit::Killed);
            Ok(())
        }
        .boxed()
    }

    fn console_tail(&self, lines: usize) -> String {
        console::last_lines(&console::printable(&lock(&self.state.console)), lines)
    }
}

/// The host's end of a connection.
struct Client {
    stream: DuplexStream,
    _token: Arc<()>,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::tests::example;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Echoes, prints, and powers off on `q`, reboots on `r`.
    fn echo() -> FakeVmm {
        FakeVmm::new(|guest, mut stream| {
            async move {
                guest.print(&format!("hello from {}\n", guest.config().id));
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    match byte[0] {
                        b'q' => guest.power_off(),
                        b'r' => guest.reboot(),
                        _ => stream.write_all(&byte).await.unwrap(),
                    }
                }
            }
            .boxed()
        })
    }

    #[tokio::test]
    async fn serves_one_connection_at_a_time_and_ends() {
        let vmm = echo();
        let machine = vmm.launch(example()).await.unwrap();
        let mut stream = machine.connect(1).await.unwrap();
        let mut byte = [0];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
        assert!(machine.connect(1).await.is_err());
        drop(stream);
        let mut stream = machine.connect(1).await.unwrap();
        stream.write_all(b"q").await.unwrap();
        assert_eq!(machine.wait().await, Exit::PowerOff);
        assert_eq!(machine.wait().await, Exit::PowerOff);
        machine.kill().await.unwrap();
        assert!(matches!(machine.connect(1).await, Err(VmmError::Gone)));
        assert_eq!(stream.read(&mut byte).await.unwrap(), 0);
        assert_eq!(machine.console_tail(1), "hello from 0abc");
        assert_eq!(vmm.running(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn is_adopted_while_it_runs() {
        let vmm = echo();
        let machine = vmm.launch(example()).await.unwrap();
        let record = machine.record().clone();
        drop(machine);
        let machine = vmm.adopt(record.clone()).await.unwrap().unwrap();
        let other = MachineRecord {
            start_time: 1,
            ..record.clone()
        };
        assert!(vmm.adopt(other).await.unwrap().is_none());
        let (killed, exit) = tokio::join!(machine.kill(), machine.wait());
        killed.unwrap();
        assert_eq!(exit, Exit::Killed);
        assert!(vmm.adopt(record).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn goes_wrong_as_told() {
        let vmm = echo();
        vmm.set_fault(Call::Launch, Some(Fault::Fail("no".into())));
        assert!(vmm.launch(example()).await.is_err());
        vmm.set_fault(Call::Launch, Some(Fault::Stall));
        let stalled = tokio::time::timeout(Duration::from_millis(20), vmm.launch(example())).await;
        assert!(stalled.is_err());
        vmm.set_fault(Call::Launch, None);
        let machine = vmm.launch(example()).await.unwrap();
        vmm.set_fault(Call::Kill, Some(Fault::Fail("busy".into())));
        assert!(machine.kill().await.is_err());
        vmm.set_fault(Call::Connect, Some(Fault::Die("bang".into())));
        assert!(matches!(machine.connect(1).await, Err(VmmError::Gone)));
        assert_eq!(
            machine.wait().await,
            Exit::Died {
                reason: "bang".into()
            }
        );
        machine.kill().await.unwrap();
        assert!(!vmm.end("0abc", Exit::Reboot));
        let mut bad = example();
        bad.vcpus = 65;
        assert!(matches!(
            vmm.launch(bad).await,
            Err(VmmError::InvalidConfig(_))
        ));
    }
}
