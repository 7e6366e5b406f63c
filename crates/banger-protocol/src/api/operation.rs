//! Operations: long actions with an id, events and a result.
//!
//! ```text
//! running ──► succeeded | failed | cancelled     (kept for a while, then forgotten)
//! ```

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::image::{Image, PruneReport};
use super::kernel::Kernel;
use super::vm::Vm;
use crate::error::ApiError;
use crate::name::OperationId;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    VmCreate,
    VmStart,
    VmStop,
    VmDelete,
    ImagePull,
    ImageImport,
    ImagePrune,
    KernelPull,
    KernelImport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// One long action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    pub id: OperationId,
    pub kind: OperationKind,
    /// What it acts on: a VM's name, a reference, a kernel's name.
    pub subject: String,
    pub state: OperationState,
    /// The latest stage announced.
    pub stage: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: OffsetDateTime,
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<OffsetDateTime>,
    /// Set where `state` is `failed` or `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// Set where `state` is `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OperationResult>,
}

/// What an operation made or changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum OperationResult {
    Vm { vm: Box<Vm> },
    Image { image: Box<Image> },
    Kernel { kernel: Box<Kernel> },
    Pruned { report: PruneReport },
    Deleted { name: String },
}

/// One line of an operation's event stream. A stream begins with `started` (to every follower,
/// also late ones, who then get the stages so far) and ends with `ended`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum OperationEvent {
    Started {
        operation: Operation,
    },
    Progress {
        /// `resolve`, `fetch`, `import`, `kernel`, `create`, `launch`, `boot`, `stop`, …
        stage: String,
        /// For people; may be empty.
        detail: String,
        /// Bytes done in this stage; 0 where it is not counted in bytes.
        done: u64,
        /// Bytes in all, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// Milliseconds since the operation started.
        at_ms: u64,
    },
    Ended {
        operation: Operation,
    },
}

/// Answer of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationList {
    pub operations: Vec<Operation>,
}
