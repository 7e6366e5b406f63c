//! The daemon itself: who it is, and the host's readiness.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::build::BuildInfo;

/// Answer of `GET /v1/daemon`; the one path that needs no API version header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DaemonInfo {
    pub api_version: u32,
    pub build: BuildInfo,
    /// The agent that new VMs boot with.
    pub agent: BuildInfo,
    pub pid: u32,
    /// Names everything of this daemon on the host: a hash of the root directory.
    pub instance: String,
    pub socket: String,
    /// Log file; empty where it logs to the journal or stderr.
    pub log: String,
    /// Everything this daemon keeps is below it.
    pub state_directory: String,
    pub config_file: String,
    pub executable: String,
    /// Modification time of the executable when the daemon started.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub executable_modified_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: OffsetDateTime,
    /// A CLI started it when it was needed, so a CLI may replace it; otherwise a service manager
    /// or a person did.
    pub started_by_client: bool,
    pub defaults: Defaults,
}

/// What a VM gets where a request says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Defaults {
    pub image: String,
    /// Absent until a kernel is pulled or configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    Pass,
    Warn,
    Fail,
}

/// One thing doctor looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    pub name: String,
    pub status: CheckStatus,
    /// One sentence each: what was found, what follows, what to do.
    pub details: Vec<String>,
}

/// Answer of `GET /v1/doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// The worst of the checks.
    pub status: CheckStatus,
    pub checks: Vec<Check>,
}
