//! What a VM holds on the host and must give back.
//!
//! | resource    | from      | to              | what it is                                        |
//! |-------------|-----------|-----------------|---------------------------------------------------|
//! | `directory` | creation  | deletion        | `vms/ID`, with hard links to base and kernel      |
//! | `uid`       | start     | deletion        | a user id that no other VM's VMM has              |
//! | `disk`      | start     | deletion        | `vms/ID/upper`, the writable disk                 |
//! | `jail`      | start     | end of the run  | `vms/ID/jail`, all that the VMM can reach         |
//! | `cgroup`    | start     | end of the run  | where the VMM's time and memory are counted       |
//! | `machine`   | start     | end of the run  | the VMM process                                   |
//!
//! Each is noted in the ledger before it is acquired and struck off after it was released; its
//! name follows from the VM's id; releasing what is not there, or only half there, succeeds.
//! So a failed start, a stop, a deletion and the recovery after `kill -9` are one loop:
//! [`release`]. A start that fails before the guest was ever ready gives back `uid` and `disk`,
//! too: the host is as it was before.

use std::path::PathBuf;

use banger_host::command::CommandError;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::VmId;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::store::{Store, with_sources};

/// One thing that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Resource {
    Directory {
        base: PathBuf,
        kernel: PathBuf,
        initramfs: PathBuf,
    },
    Uid {
        uid: u32,
    },
    Disk {
        mib: u64,
        /// Owner, where the VMM has a uid of its own.
        uid: Option<u32>,
    },
    Jail {
        uid: Option<u32>,
        /// A newer one than the VM was created with.
        initramfs: Option<PathBuf>,
    },
    Cgroup {
        /// Below the daemon's own cgroup.
        name: String,
        /// Where that is, or would be: a later daemon may have another cgroup of its own.
        directories: Vec<PathBuf>,
    },
    Machine,
}

impl Resource {
    /// The name in the ledger; a VM holds at most one of a kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::Directory { .. } => "directory",
            Resource::Uid { .. } => "uid",
            Resource::Disk { .. } => "disk",
            Resource::Jail { .. } => "jail",
            Resource::Cgroup { .. } => "cgroup",
            Resource::Machine => "machine",
        }
    }

    /// Place in the order of acquisition; release goes the other way.
    pub fn rank(&self) -> u8 {
        match self {
            Resource::Directory { .. } => 0,
            Resource::Uid { .. } => 1,
            Resource::Disk { .. } => 2,
            Resource::Jail { .. } => 3,
            Resource::Cgroup { .. } => 4,
            Resource::Machine => 5,
        }
    }

    /// What no two VMs may hold at once.
    pub fn claim(&self) -> Option<String> {
        match self {
            Resource::Uid { uid } => Some(uid.to_string()),
            _ => None,
        }
    }
}

/// How much is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What only a running machine needs.
    Run,
    /// What a start acquired that never got a guest ready: all but the directory.
    FirstRun,
    /// Everything.
    All,
}

impl Scope {
    /// The scope of a start that failed.
    pub fn after_failed_start(was_ever_ready: bool) -> Scope {
        if was_ever_ready {
            Scope::Run
        } else {
            Scope::FirstRun
        }
    }

    pub fn covers(self, resource: &Resource) -> bool {
        match resource {
            Resource::Machine | Resource::Cgroup { .. } | Resource::Jail { .. } => true,
            Resource::Disk { .. } | Resource::Uid { .. } => self != Scope::Run,
            Resource::Directory { .. } => self == Scope::All,
        }
    }
}

/// Why a resource could not be acquired or released.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot {deed} {path}", path = path.display())]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot make a file system for writable disks")]
    Template {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("a disk of {} is larger than a file can be here", banger_protocol::size::format(mib << 20))]
    DiskTooLarge { mib: u64 },
    #[error("cannot {deed} the cgroup {name}")]
    Cgroup {
        deed: &'static str,
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the VMM process {pid} did not end after it was killed")]
    Undying { pid: i32 },
    #[error("{0}")]
    Other(String),
}

impl HostError {
    /// How the program failed that was to do it.
    fn command(&self) -> Option<&CommandError> {
        match self {
            HostError::Template { source } => source.downcast_ref(),
            _ => None,
        }
    }

    fn is_no_space(&self) -> bool {
        // Programs run with messages in English.
        if let Some(CommandError::Failed { stderr, .. }) = self.command()
            && stderr.contains("No space left on device")
        {
            return true;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && matches!(
                    io.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                )
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> ApiError {
        let text = with_sources(&error);
        if error.is_no_space() {
            return ApiError::new(ErrorKind::NoSpace, text)
                .hint("free space on the file system of the state directory, for instance with banger image prune");
        }
        match &error {
            HostError::Template { .. }
                if error.command().is_some_and(CommandError::is_not_found) =>
            {
                ApiError::new(ErrorKind::MissingDependency, text).hint("install e2fsprogs")
            }
            HostError::DiskTooLarge { .. } => ApiError::new(ErrorKind::InvalidArgument, text).hint(
                "choose a smaller --disk-size, or a state directory on a file system with larger files",
            ),
            HostError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ApiError::new(ErrorKind::PermissionDenied, text)
            }
            _ => ApiError::new(ErrorKind::Internal, text),
        }
    }
}

/// The host, as far as resources go. The other seam is [`banger_vmm::Vmm`], which acquires the
/// `machine`: acquiring it here only prepares, releasing it here ends a process that is left.
pub trait Host: Send + Sync {
    fn acquire<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>>;
    /// Idempotent; what is not there, or only half there, is released all the same.
    fn release<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>>;
    /// Ids of VMs of which something is left on the host, whatever the store says.
    fn leftovers(&self) -> Result<Vec<VmId>, HostError>;
}

/// Notes a resource and acquires it; on failure it is released and struck off again, and what
/// could not even be released stays noted for the next loop over the ledger.
///
/// # Errors
/// The store's or the host's.
pub async fn acquire(
    store: &Store,
    host: &dyn Host,
    vm: &VmId,
    resource: &Resource,
) -> Result<(), ApiError> {
    store.note_resource(vm, resource)?;
    let Err(error) = host.acquire(vm, resource).await else {
        return Ok(());
    };
    release_one(store, host, vm, resource)
        .await
        .unwrap_or_else(|left| {
            tracing::warn!(%vm, resource = resource.kind(), error = %left, "left behind for now");
        });
    Err(error.into())
}

/// Releases what `scope` covers, last acquired first. Passes over errors and returns the first.
///
/// # Errors
/// The first of the host's or the store's; what it concerns stays in the ledger.
pub async fn release(
    store: &Store,
    host: &dyn Host,
    vm: &VmId,
    scope: Scope,
) -> Result<(), ApiError> {
    let mut first = Ok(());
    for resource in store.resources_of(vm)?.iter().rev() {
        if !scope.covers(resource) {
            continue;
        }
        if let Err(error) = release_one(store, host, vm, resource).await {
            tracing::warn!(%vm, resource = resource.kind(), %error, "not released");
            if first.is_ok() {
                first = Err(error);
            }
        }
    }
    first
}

async fn release_one(
    store: &Store,
    host: &dyn Host,
    vm: &VmId,
    resource: &Resource,
) -> Result<(), ApiError> {
    host.release(vm, resource).await?;
    store.strike_resource(vm, resource)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Resource; 6] {
        [
            Resource::Directory {
                base: PathBuf::new(),
                kernel: PathBuf::new(),
                initramfs: PathBuf::new(),
            },
            Resource::Uid { uid: 1 },
            Resource::Disk { mib: 1, uid: None },
            Resource::Jail {
                uid: None,
                initramfs: None,
            },
            Resource::Cgroup {
                name: String::new(),
                directories: Vec::new(),
            },
            Resource::Machine,
        ]
    }

    #[test]
    fn scopes_are_prefixes_of_the_release_order() {
        for (scope, kept) in [(Scope::All, 0), (Scope::FirstRun, 1), (Scope::Run, 3)] {
            let resources = all();
            let left: Vec<&str> = resources
                .iter()
                .filter(|resource| !scope.covers(resource))
                .map(Resource::kind)
                .collect();
            assert_eq!(left, ["directory", "uid", "disk"][..kept], "{scope:?}");
        }
        assert_eq!(Scope::after_failed_start(true), Scope::Run);
        assert_eq!(Scope::after_failed_start(false), Scope::FirstRun);
    }

    #[test]
    fn ranks_are_the_order_of_the_table() {
        let ranks: Vec<u8> = all().iter().map(Resource::rank).collect();
        assert!(ranks.is_sorted());
        for resource in all() {
            let json = serde_json::to_string(&resource).unwrap();
            assert_eq!(serde_json::from_str::<Resource>(&json).unwrap(), resource);
        }
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let error = HostError::Io {
            deed: "copy",
            path: PathBuf::from("upper"),
            source: std::io::Error::from(std::io::ErrorKind::StorageFull),
        };
        let api = ApiError::from(error);
        assert_eq!(api.kind, ErrorKind::NoSpace);
        assert!(
            api.message.starts_with("cannot copy upper: "),
            "{}",
            api.message
        );
        let template = HostError::Template {
            source: Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
        };
        assert_eq!(ApiError::from(template).kind, ErrorKind::NoSpace);
    }

    #[test]
    fn a_program_that_fails_is_only_missing_where_it_is() {
        let failed = |stderr: &str| CommandError::Failed {
            command: "mke2fs".to_owned(),
            ending: banger_host::command::Ending::Code(1),
            stderr: stderr.to_owned(),
        };
        let missing = CommandError::NotFound {
            program: "mke2fs".to_owned(),
        };
        for (error, kind) in [
            (missing, ErrorKind::MissingDependency),
            (failed("write: No space left on device"), ErrorKind::NoSpace),
            (failed("bad option"), ErrorKind::Internal),
        ] {
            let error = HostError::Template {
                source: Box::new(error),
            };
            let api = ApiError::from(error);
            assert_eq!(api.kind, kind, "{api}");
        }
    }
}
