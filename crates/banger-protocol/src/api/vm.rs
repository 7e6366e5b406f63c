//! VMs.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::image::RegistryCredentials;
use crate::bytes::ByteString;
use crate::error::ApiError;
use crate::name::{KernelName, VmId, VmName};

/// Where a VM is in its life.
///
/// ```text
/// created ─► starting ─► running ─► stopping ─► stopped ─► starting …
///               │          │  ▲
///               │          ▼  │
///               │       unresponsive ─► stopping …
///               └──────────┴──► failed ─► starting …      any ─► deleting
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// It exists and has never been started.
    Created,
    Starting,
    /// Its agent answers.
    Running,
    /// The machine runs, but its agent has not answered for `agent_timeout`. Nothing is ended for
    /// that: it is `running` again once it answers.
    Unresponsive,
    Stopping,
    Stopped,
    /// It could not start, or its VMM died; `failure` says why.
    Failed,
    Deleting,
}

/// What is process 1 in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitChoice {
    /// banger's agent.
    Agent,
    /// The image's own init; entrypoint and cmd are never executed.
    Image,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    pub id: VmId,
    pub name: VmName,
    pub state: VmState,
    /// Why it failed, where `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ApiError>,
    /// What is worth knowing about how it came to this state, where that is no failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Local name of the image at creation; the image may have been deleted or moved since.
    pub image: String,
    /// Digest of the image it was created from.
    pub image_digest: String,
    pub kernel: KernelName,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// Size of the writable disk as the guest sees it.
    pub disk_mib: u64,
    /// Bytes of the writable disk that take space on the host.
    pub disk_used_bytes: u64,
    /// Absent until the first boot decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitChoice>,
    /// It is removed when `main` ends.
    pub ephemeral: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<MainProcess>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When its agent last became ready.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<OffsetDateTime>,
    /// The running machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<VmMachine>,
    /// Phases of the latest start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<Timing>,
}

/// How long one phase took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// `image`, `kernel`, `create`, `vmm`, `guest_kernel`, `agent`, …
    pub phase: String,
    /// Milliseconds.
    pub ms: f64,
}

/// The VMM process of a running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmMachine {
    /// `qemu` or `firecracker`.
    pub vmm: String,
    pub vmm_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    pub pid: i32,
    pub agent_generation: u32,
}

/// The command of `vm run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MainProcess {
    pub command: Vec<ByteString>,
    pub state: MainState,
    /// Exit code; 128 + n where signal n ended it. Set where `state` is `exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// `vm start` runs it again.
    pub persistent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MainState {
    /// Not started in this boot.
    Waiting,
    Running,
    Exited,
}

/// Body of `POST /v1/vms`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// By default a readable name is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VmName>,
    /// Local name, catalog name or reference; pulled where it is not there. By default the
    /// configured `default_image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub vcpus: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub memory_mib: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub disk_mib: Option<u64>,
    /// By default the image's init where it has systemd, else the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitChoice>,
    /// `NAME=value`, over the image's environment, for `main` and every exec.
    #[serde(default)]
    pub env: Vec<ByteString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<ByteString>,
    /// A persistent `main`: part of the VM, run at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<MainSpec>,
    /// Remove the VM when its `main` ends.
    #[serde(default)]
    pub ephemeral: bool,
    /// Only create it.
    #[serde(default)]
    pub no_start: bool,
    /// For the pull, where one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
}

/// A persistent `main`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MainSpec {
    /// Empty means the image's entrypoint and cmd; where that is nothing, a shell or an init,
    /// there is no `main`.
    #[serde(default)]
    pub command: Vec<ByteString>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmList {
    pub vms: Vec<Vm>,
}

/// Query of the long actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OperationQuery {
    /// Answer `202` with the operation and go on without this client.
    #[serde(default)]
    pub detach: bool,
}

/// Query of `POST /v1/vms/{vm}/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct StopQuery {
    #[serde(default)]
    pub detach: bool,
    /// Milliseconds the guest has to switch itself off before its VMM is killed; by default
    /// `stop_timeout` of the configuration. 0 kills at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(maximum = 3600000)]
    pub timeout_ms: Option<u64>,
}

/// Query of `GET /v1/vms/{vm}/logs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// The serial console rather than the output of `main`.
    #[serde(default)]
    pub console: bool,
    /// Go on until the client hangs up or the VM ends.
    #[serde(default)]
    pub follow: bool,
    /// Only the last so many lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
}

/// What `GET /v1/vms/{vm}/wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// The agent answers.
    Ready,
    /// `main` has ended.
    Main,
    /// The machine has ended.
    Stopped,
    /// The VM does not exist any more.
    Deleted,
}

/// Query of `GET /v1/vms/{vm}/wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    #[serde(rename = "for")]
    pub wait_for: WaitFor,
    /// Milliseconds, at most an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(maximum = 3600000)]
    pub timeout_ms: Option<u64>,
}

/// Answer of `GET /v1/vms/{vm}/wait`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WaitResult {
    /// Absent where the VM was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    /// Exit code of `main`, where it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Answer of `GET /v1/vms/{vm}/health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmHealth {
    pub state: VmState,
    /// The agent answered within the bound.
    pub healthy: bool,
    /// Microseconds from question to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Seconds since the guest's kernel started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}
