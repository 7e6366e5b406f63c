//! One daemon: opened in an order in which every failure leaves nothing behind, served, ended.
//!
//! ```text
//! lock ─► store ─► images, kernels (swept) ─► VMs (adopted) ─► socket ─► serve ─► stop
//! ```
//!
//! The lock on the state directory comes first and is held to the end, so that there is one daemon
//! for each. VMs are no children of the daemon's life: they go on when it ends, and are adopted when
//! it comes back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_host::command::find;
use banger_host::files::{FileLock, LockError, private_directory};
use banger_host::layout::Layout;
use banger_image::catalog::Catalog;
use banger_protocol::error::{ApiError, ErrorKind};
use futures_util::future::BoxFuture;
use rustix::process::geteuid;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent_program::AgentProgram;
use crate::api;
use crate::api::guard::Access;
use crate::config::Config;
use crate::doctor::{AskDriver, Doctor};
use crate::image::{self, Images};
use crate::instance::instance;
use crate::kernel::Kernels;
use crate::operation::{OperationLimits, Operations};
use crate::services::{Identity, Services};
use crate::socket::Socket;
use crate::store::{Store, with_sources};
use crate::vm::Vms;

/// Name of the store in the state directory.
const STORE: &str = "state.db";
/// How long cancelled operations have to undo what was half done.
const UNDO_BOUND: Duration = Duration::from_secs(20);

/// How the process was started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// A client started it when it was needed.
    pub by_client: bool,
    /// Where its log goes; `None` is stderr.
    pub log: Option<PathBuf>,
}

/// What differs between the real daemon and one in a test: what runs machines, and on what host.
pub struct Parts {
    pub agent: Arc<AgentProgram>,
    pub driver: AskDriver,
    pub open_vms: OpenVms,
}

/// What is open when the VMs' turn comes.
pub struct Opened {
    pub store: Arc<Store>,
    pub kernels: Kernels,
    pub instance: String,
    /// The VMs' directory, which exists and is the daemon's own.
    pub vms: PathBuf,
}

/// Opens the VMs' part.
pub type OpenVms = Box<dyn FnOnce(Opened) -> BoxFuture<'static, Result<Vms, ApiError>> + Send>;

/// A daemon whose socket accepts connections.
pub struct Daemon {
    services: Arc<Services>,
    socket: Socket,
    _lock: FileLock,
}

impl Daemon {
    /// Opens everything.
    ///
    /// # Errors
    /// Another daemon has the directory or the socket; store, catalog or directories are unusable.
    pub async fn open(
        layout: Layout,
        config: Config,
        start: Start,
        parts: Parts,
    ) -> Result<Daemon, ApiError> {
        let config = Arc::new(config);
        prepare(&layout)?;
        let lock = lock(&layout)?;
        let instance = instance(&layout.state);
        let store = Arc::new(Store::open(&layout.state.join(STORE))?);
        let catalog = Catalog::load(config.catalog.as_deref())
            .map_err(|error| ApiError::new(ErrorKind::BadConfig, with_sources(&error)))?;
        let catalog = Arc::new(catalog);
        let images = Images::open(
            &layout.state,
            image::options(&config),
            store.clone(),
            catalog.clone(),
        )?;
        let kernels = Kernels::new(
            &layout.state,
            catalog,
            parts.agent.clone(),
            config.default_kernel.clone(),
        );
        kernels.sweep()?;
        let directory = layout.state.join("vms");
        private_directory(&directory).map_err(|error| unusable(with_sources(&error)))?;
        let vms = (parts.open_vms)(Opened {
            store,
            kernels: kernels.clone(),
            instance: instance.clone(),
            vms: directory,
        })
        .await?;
        let socket = Socket::bind(&layout)?;
        let operations = Operations::new(OperationLimits {
            retention: config.operation_retention,
            ..OperationLimits::default()
        });
        let executable = std::env::current_exe().unwrap_or_default();
        let executable_modified_at = std::fs::metadata(&executable)
            .and_then(|metadata| metadata.modified())
            .map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from);
        let identity = Identity {
            instance,
            agent: parts.agent.build().await,
            log: start.log,
            executable,
            executable_modified_at,
            started_at: OffsetDateTime::now_utc(),
            started_by_client: start.by_client,
            layout,
        };
        let doctor = Doctor {
            config: config.clone(),
            agent: parts.agent,
            driver: parts.driver,
        };
        Ok(Daemon {
            services: Arc::new(Services {
                config,
                operations,
                images,
                kernels,
                vms,
                doctor,
                identity,
                stop: CancellationToken::new(),
            }),
            socket,
            _lock: lock,
        })
    }

    /// Ends [`Daemon::serve`] when cancelled.
    pub fn stop(&self) -> CancellationToken {
        self.services.stop.clone()
    }

    /// Answers requests until it is told to stop, by a client, by SIGTERM or by SIGINT.
    ///
    /// # Errors
    /// The socket or the signals cannot be used.
    pub async fn serve(mut self) -> Result<(), ApiError> {
        let unusable = |error: std::io::Error| {
            ApiError::new(
                ErrorKind::DaemonUnavailable,
                format!("cannot use the socket or signals: {error}"),
            )
        };
        let stop = self.stop();
        let mut terminate = signal(SignalKind::terminate()).map_err(unusable)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unusable)?;
        let signals = stop.clone();
        let watcher = tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM"),
                _ = interrupt.recv() => info!("SIGINT"),
                () = signals.cancelled() => {}
            }
            signals.cancel();
        });
        let listener = self
            .socket
            .take_listener()
            .ok_or_else(|| unusable(std::io::ErrorKind::NotConnected.into()))?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(unusable)?;
        let access = Access {
            uid: geteuid().as_raw(),
            group: self.socket.group(),
        };
        let router = api::router(self.services.clone(), access);
        info!(socket = %self.socket.path().display(), pid = std::process::id(), "ready");
        let serving = tokio::spawn(api::serve::serve(listener, router, stop.clone()));
        stop.cancelled().await;
        // Attached clients get the end of their operations before their connections end.
        let unfinished = self.services.operations.shut_down(UNDO_BOUND).await;
        if unfinished > 0 {
            warn!(unfinished, "operations that did not end in time");
        }
        if let Err(error) = serving.await {
            warn!(%error, "serving ended badly");
        }
        watcher.abort();
        info!("stopped; VMs go on");
        Ok(())
    }
}

/// Makes the directories that are the daemon's own.
pub fn prepare(layout: &Layout) -> Result<(), ApiError> {
    if let Some(parent) = layout.state.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            unusable(format!(
                "cannot make the directory {}: {error}",
                parent.display()
            ))
        })?;
    }
    private_directory(&layout.state)
        .map(drop)
        .map_err(|error| unusable(with_sources(&error)))
}

fn unusable(reason: String) -> ApiError {
    ApiError::new(ErrorKind::DaemonUnavailable, reason)
        .hint("set BANGER_ROOT to a directory you can write to")
}

fn lock(layout: &Layout) -> Result<FileLock, ApiError> {
    FileLock::try_acquire(&layout.state.join("lock")).map_err(|error| {
        let (what, hint) = match &error {
            LockError::Held { .. } => (
                "another bangerd has",
                "talk to that bangerd, stop it, or set BANGER_ROOT to another directory",
            ),
            LockError::Io { .. } => (
                "cannot take",
                "set BANGER_ROOT to a directory you can write to",
            ),
        };
        ApiError::new(
            ErrorKind::DaemonUnavailable,
            format!(
                "{what} the directory {}: {}",
                layout.state.display(),
                with_sources(&error)
            ),
        )
        .hint(hint)
    })
}

/// The guest agent of this installation.
pub fn agent_program() -> Arc<AgentProgram> {
    let executable = std::env::current_exe().unwrap_or_default();
    let variable = std::env::var_os(crate::agent_program::VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    Arc::new(AgentProgram::new(crate::agent_program::places(
        variable,
        &executable,
    )))
}

/// Where QEMU is, as configured or found on `PATH`.
pub fn qemu(config: &Config) -> PathBuf {
    find(&config.qemu_bin).unwrap_or_else(|| config.qemu_bin.clone())
}
