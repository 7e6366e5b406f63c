//! Kernels that VMs boot.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::name::KernelName;

/// One kernel on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    pub name: KernelName,
    /// `uname -r` of a VM that boots it.
    pub version: String,
    pub arch: String,
    pub distro: String,
    /// Where it came from: `debian:PACKAGE=VERSION`, `import`.
    pub source: String,
    /// SHA-256 of the uncompressed kernel image, hexadecimal.
    pub sha256: String,
    /// Bytes of kernel image and modules.
    pub size_bytes: u64,
    /// Modules which the agent loads before it mounts, in order.
    pub boot_modules: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: OffsetDateTime,
    /// VMs boot it where neither request nor image names one.
    pub default: bool,
}

/// One kernel that could be pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailableKernel {
    pub name: KernelName,
    pub description: String,
    pub pulled: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KernelList {
    pub kernels: Vec<Kernel>,
    pub available: Vec<AvailableKernel>,
}

/// Body of `POST /v1/kernels/pull`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullKernel {
    pub name: KernelName,
    /// Fetch again what is there already.
    #[serde(default)]
    pub force: bool,
}

/// Query of `POST /v1/kernels/import`; the body is a tar archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    pub name: KernelName,
    /// For the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distro: Option<String>,
    /// Replace a kernel of that name.
    #[serde(default)]
    pub force: bool,
}
