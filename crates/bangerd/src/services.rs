//! What the API's handlers work with: the daemon's parts, and what it knows about itself.

use std::path::PathBuf;
use std::sync::Arc;

use banger_host::layout::Layout;
use banger_protocol::api;
use banger_protocol::api::daemon::{DaemonInfo, Defaults, DoctorReport};
use banger_protocol::build::{BuildInfo, this_build};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::doctor::Doctor;
use crate::image::Images;
use crate::kernel::Kernels;
use crate::operation::Operations;
use crate::vm::Vms;

/// The parts of one daemon.
pub struct Services {
    pub config: Arc<Config>,
    pub operations: Operations,
    pub images: Images,
    pub kernels: Kernels,
    pub vms: Vms,
    pub doctor: Doctor,
    pub identity: Identity,
    /// Set where the daemon is to stop.
    pub stop: CancellationToken,
}

/// What does not change while the daemon runs.
pub struct Identity {
    pub layout: Layout,
    pub instance: String,
    pub agent: BuildInfo,
    /// Absent where the log goes to stderr.
    pub log: Option<PathBuf>,
    pub executable: PathBuf,
    pub executable_modified_at: OffsetDateTime,
    pub started_at: OffsetDateTime,
    pub started_by_client: bool,
}

impl Services {
    pub fn info(&self) -> DaemonInfo {
        let identity = &self.identity;
        let shown = |path: &PathBuf| path.display().to_string();
        DaemonInfo {
            api_version: api::VERSION,
            build: this_build(),
            agent: identity.agent.clone(),
            pid: std::process::id(),
            instance: identity.instance.clone(),
            socket: shown(&identity.layout.socket()),
            log: identity.log.as_ref().map(shown).unwrap_or_default(),
            state_directory: shown(&identity.layout.state),
            config_file: shown(&identity.layout.config_file),
            executable: shown(&identity.executable),
            executable_modified_at: identity.executable_modified_at,
            started_at: identity.started_at,
            started_by_client: identity.started_by_client,
            defaults: Defaults {
                image: self.config.default_image.clone(),
                kernel: Some(self.config.default_kernel.to_string()),
                vcpus: self.config.vcpus,
                memory_mib: self.config.memory.in_mib(),
                disk_mib: self.config.disk_size.in_mib(),
            },
        }
    }

    pub async fn doctor(&self) -> DoctorReport {
        self.doctor.report(&self.identity).await
    }
}
