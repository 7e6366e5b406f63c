//! Values of the API's types.

use std::path::Path;

use banger_protocol::api;
use banger_protocol::api::daemon::{DaemonInfo, Defaults};
use banger_protocol::api::image::Image;
use banger_protocol::api::kernel::{AvailableKernel, Kernel, KernelList};
use banger_protocol::api::operation::{
    Operation, OperationEvent, OperationKind, OperationResult, OperationState,
};
use banger_protocol::api::vm::{Vm, VmState};
use banger_protocol::build::this_build;
use banger_protocol::error::ApiError;
use time::OffsetDateTime;

pub const THEN: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

/// A daemon as this build would start it.
pub fn daemon(root: &Path) -> DaemonInfo {
    let at = |path: &str| root.join(path).display().to_string();
    DaemonInfo {
        api_version: api::VERSION,
        build: this_build(),
        agent: this_build(),
        // Above every process id there is.
        pid: 1 << 30,
        instance: "0123abcd".into(),
        socket: at("run/bangerd.sock"),
        log: at("state/bangerd.log"),
        state_directory: at("state"),
        config_file: at("config.toml"),
        executable: "/usr/bin/bangerd".into(),
        executable_modified_at: THEN,
        started_at: THEN,
        started_by_client: true,
        defaults: Defaults {
            image: "house-image".into(),
            kernel: None,
            vcpus: 3,
            memory_mib: 1536,
            disk_mib: 5 << 10,
        },
    }
}

pub fn vm(name: &str, state: VmState) -> Vm {
    Vm {
        id: "0123456789ab".parse().unwrap(),
        name: name.parse().unwrap(),
        state,
        failure: None,
        note: None,
        image: "debian-12".into(),
        image_digest: format!("sha256:{}", "0".repeat(64)),
        kernel: "debian-6.1-cloud".parse().unwrap(),
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 8 << 10,
        disk_used_bytes: 3 << 20,
        init: None,
        ephemeral: false,
        main: None,
        created_at: THEN,
        started_at: None,
        machine: None,
        timings: Vec::new(),
    }
}

pub fn image(name: &str, source: &str) -> Image {
    Image {
        name: name.parse().unwrap(),
        source: source.into(),
        digest: format!("sha256:{}", "1".repeat(64)),
        base_digest: format!("sha256:{}", "2".repeat(64)),
        size_bytes: 148 << 20,
        created_at: THEN,
        kernel: None,
        config: Default::default(),
        used_by: Vec::new(),
    }
}

pub fn kernels() -> KernelList {
    KernelList {
        kernels: vec![Kernel {
            name: "six".parse().unwrap(),
            version: "6.1.0".into(),
            arch: "x86_64".into(),
            distro: "debian".into(),
            source: "apt:linux-image".into(),
            sha256: "0".repeat(64),
            size_bytes: 60 << 20,
            boot_modules: Vec::new(),
            imported_at: THEN,
            default: true,
        }],
        available: vec![AvailableKernel {
            name: "seven".parse().unwrap(),
            description: "a newer one".into(),
            pulled: false,
        }],
    }
}

pub fn operation(kind: OperationKind, state: OperationState) -> Operation {
    Operation {
        id: "ba9876543210".parse().unwrap(),
        kind,
        subject: "web".into(),
        state,
        stage: "boot".into(),
        started_at: THEN,
        ended_at: None,
        error: None,
        result: None,
    }
}

/// The events of an operation that made `result`.
pub fn succeeded(kind: OperationKind, result: OperationResult) -> Vec<OperationEvent> {
    let ended = Operation {
        result: Some(result),
        ..operation(kind, OperationState::Succeeded)
    };
    events(kind, ended)
}

/// The events of one that failed.
pub fn failed(kind: OperationKind, error: ApiError) -> Vec<OperationEvent> {
    let ended = Operation {
        error: Some(error),
        ..operation(kind, OperationState::Failed)
    };
    events(kind, ended)
}

fn events(kind: OperationKind, ended: Operation) -> Vec<OperationEvent> {
    vec![
        OperationEvent::Started {
            operation: operation(kind, OperationState::Running),
        },
        OperationEvent::Progress {
            stage: "boot".into(),
            detail: "waiting".into(),
            done: 0,
            total: None,
            at_ms: 1,
        },
        OperationEvent::Ended { operation: ended },
    ]
}
