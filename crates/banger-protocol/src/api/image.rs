//! Images: names for read-only bases, and where they came from.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::name::{ImageName, KernelName};

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    pub name: ImageName,
    /// What was asked for: a canonical reference, `catalog:NAME`, or `oci-archive:FILE` and so on.
    pub source: String,
    /// Manifest digest; for local sources the digest of the layers.
    pub digest: String,
    /// Identity of the base file.
    pub base_digest: String,
    /// Bytes of the base file.
    pub size_bytes: u64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// The kernel its VMs boot, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    pub config: ImageConfig,
    /// Names of the VMs that use its base.
    pub used_by: Vec<String>,
}

/// The part of an OCI image configuration that says how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageConfig {
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    #[serde(default)]
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    #[serde(default)]
    pub user: String,
    /// Absolute; empty means `/`.
    #[serde(default)]
    pub workdir: String,
    /// Absolute paths whose data must not lie on overlayfs.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Name or number; empty means SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<Image>,
}

/// Credentials for one registry, read by the client as the user and sent with the request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum RegistryCredentials {
    Basic {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, as `docker login` stores it for some registries.
    IdentityToken {
        token: String,
    },
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredentials(…)")
    }
}

/// Body of `POST /v1/images/pull`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// A catalog name or a reference.
    #[schema(max_length = 4096)]
    pub reference: String,
    /// Local name; by default the last path component and the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageName>,
    /// Kernel which VMs of this image boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveKind {
    OciArchive,
    DockerArchive,
    Rootfs,
}

/// Query of `POST /v1/images/import`; the body is the archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    pub kind: ArchiveKind,
    pub name: ImageName,
    /// Where the bytes came from, for the record: `oci-archive:FILE` and so on.
    pub source: String,
    /// Which of several images in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
}

/// Body of `POST /v1/images/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneImages {
    /// Only tell what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What pruning removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReport {
    /// Downloaded layers no longer needed.
    pub blobs: u64,
    /// Base files which no image and no VM names.
    pub bases: u64,
    pub bytes: u64,
}
