//! What the API shows of a VM.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use banger_protocol::agent::ExecEntry;
use banger_protocol::api::exec::Exec;
use banger_protocol::api::vm::{MainState, Vm, VmMachine, WaitFor};
use banger_protocol::error::ApiError;
use banger_protocol::name::VmId;
use banger_vmm::{Accelerator, jail_path};

use super::Entry;
use super::spec::Observed;
use super::state::State;
use super::worker::View;

/// One VM. `disk_used` is the one thing that is not remembered.
pub(super) fn vm(entry: &Entry, view: &View, disk_used: u64) -> Vm {
    let spec = &entry.spec;
    let observed = &view.observed;
    let running = matches!(
        view.state,
        State::Running | State::Unresponsive | State::Stopping
    );
    Vm {
        id: entry.id.clone(),
        name: entry.name.clone(),
        state: view.state.into(),
        failure: observed
            .failure
            .clone()
            .filter(|_| view.state == State::Failed),
        note: observed.note.clone(),
        image: spec.image.clone(),
        image_digest: spec.image_digest.clone(),
        kernel: spec.kernel.clone(),
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        disk_mib: spec.disk_mib,
        disk_used_bytes: disk_used,
        init: observed.init,
        ephemeral: spec.ephemeral,
        main: observed.main.clone(),
        created_at: spec.created_at,
        started_at: observed.started_at,
        machine: observed
            .machine
            .as_ref()
            .filter(|_| running)
            .map(|record| VmMachine {
                vmm: record.vmm.clone(),
                vmm_version: record.vmm_version.clone(),
                accelerator: match record.config.accelerator {
                    Accelerator::Kvm => "kvm".to_owned(),
                    Accelerator::Tcg => "tcg".to_owned(),
                },
                pid: record.pid,
                agent_generation: observed
                    .boot
                    .as_ref()
                    .map_or(0, |boot| boot.agent_generation),
            }),
        timings: observed.timings.clone(),
    }
}

/// A VM's JSON. While no machine runs for it, it changes with the view only and is kept: a list of a
/// thousand VMs is then a thousand copies, and no thousand looks at the disk.
#[derive(Default)]
pub(super) struct Shown(Mutex<Option<Kept>>);

struct Kept {
    transition: u64,
    observed: Arc<Observed>,
    json: Box<[u8]>,
}

impl Shown {
    /// Appends the JSON of the VM that `show` gives for `view`.
    pub(super) fn write(
        &self,
        view: &View,
        out: &mut Vec<u8>,
        show: impl FnOnce() -> Vm,
    ) -> serde_json::Result<()> {
        if view.state.holds_machine() {
            return serde_json::to_writer(out, &show());
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept
            && kept.transition == view.transition
            && Arc::ptr_eq(&kept.observed, &view.observed)
        {
            out.extend_from_slice(&kept.json);
            return Ok(());
        }
        let start = out.len();
        serde_json::to_writer(&mut *out, &show())?;
        *kept = Some(Kept {
            transition: view.transition,
            observed: view.observed.clone(),
            json: out[start..].into(),
        });
        Ok(())
    }
}

/// Bytes of the writable disk that take space; 0 before there is one.
pub(super) fn disk_used(vms: &Path, id: &VmId) -> u64 {
    // `st_blocks` counts units of 512 bytes whatever the file system's block size.
    std::fs::symlink_metadata(vms.join(id.as_str()).join(jail_path::UPPER))
        .map_or(0, |metadata| metadata.blocks() * 512)
}

pub(super) fn exec(entry: ExecEntry) -> Exec {
    Exec {
        id: entry.exec,
        pid: entry.pid,
        command: entry.argv,
        attached: entry.attached,
        exited: entry.exited,
    }
}

/// Whether what is waited for is so, or can no more become so.
pub(super) fn reached(view: &View, wait_for: WaitFor) -> Option<Result<(), ApiError>> {
    let machine = view.state.holds_machine();
    let so = match wait_for {
        WaitFor::Ready => {
            if view.state == State::Failed {
                let failure = view.observed.failure.clone();
                return Some(failure.map_or(Ok(()), Err));
            }
            view.state == State::Running
        }
        // It ended, or its machine did before it could begin.
        WaitFor::Main => match &view.observed.main {
            Some(main) if main.state == MainState::Exited => true,
            _ => !machine && view.state != State::Created,
        },
        WaitFor::Stopped => !machine,
        WaitFor::Deleted => false,
    };
    (so || view.gone).then_some(Ok(()))
}

pub(super) fn waited_for(wait_for: WaitFor) -> &'static str {
    match wait_for {
        WaitFor::Ready => "ready",
        WaitFor::Main => "done with its main",
        WaitFor::Stopped => "stopped",
        WaitFor::Deleted => "deleted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::vm::MainProcess;
    use banger_protocol::error::ErrorKind;

    fn view(state: State, main: Option<MainState>) -> View {
        View {
            state,
            transition: 1,
            observed: Arc::new(Observed {
                failure: (state == State::Failed)
                    .then(|| ApiError::new(ErrorKind::BootFailed, "x")),
                main: main.map(|state| MainProcess {
                    command: Vec::new(),
                    state,
                    exit_code: None,
                    persistent: false,
                }),
                ..Observed::default()
            }),
            agent: None,
            gone: false,
        }
    }

    #[test]
    fn what_no_machine_changes_is_shown_once() {
        let example = |disk_used_bytes| -> Vm {
            serde_json::from_value(serde_json::json!({
                "id": "0123456789ab", "name": "web", "state": "stopped", "image": "x",
                "image_digest": "sha256:0", "kernel": "k", "vcpus": 1, "memory_mib": 1,
                "disk_mib": 1, "disk_used_bytes": disk_used_bytes, "ephemeral": false,
                "created_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        let shown = Shown::default();
        let written = |view: &View, disk_used_bytes: u64| {
            let mut out = b"before".to_vec();
            let mut looked = false;
            shown
                .write(view, &mut out, || {
                    looked = true;
                    example(disk_used_bytes)
                })
                .unwrap();
            let vm: Vm = serde_json::from_slice(&out[6..]).unwrap();
            (vm.disk_used_bytes, looked)
        };
        let stopped = view(State::Stopped, None);
        assert_eq!(written(&stopped, 7), (7, true));
        assert_eq!(written(&stopped.clone(), 8), (7, false));
        let running = view(State::Running, None);
        assert_eq!(written(&running, 8), (8, true));
        assert_eq!(written(&running, 9), (9, true));
        // The same state, and something else about it.
        let noted = view(State::Stopped, None);
        assert_eq!(written(&noted, 10), (10, true));
        let later = View {
            transition: 5,
            ..noted
        };
        assert_eq!(written(&later, 11), (11, true));
    }

    #[test]
    fn what_ends_a_wait() {
        use State as S;
        let running = Some(MainState::Running);
        let exited = Some(MainState::Exited);
        for (state, main, ready, main_done, stopped) in [
            (S::Created, None, None, false, true),
            (S::Starting, None, None, false, false),
            (S::Running, None, Some(true), false, false),
            (S::Running, running, Some(true), false, false),
            (S::Running, exited, Some(true), true, false),
            (S::Unresponsive, running, None, false, false),
            (S::Stopping, running, None, false, false),
            (S::Stopped, exited, None, true, true),
            (S::Stopped, None, None, true, true),
            (S::Failed, None, Some(false), true, true),
        ] {
            let view = view(state, main);
            let got = reached(&view, WaitFor::Ready).map(|outcome| outcome.is_ok());
            assert_eq!(got, ready, "{state:?} ready");
            let got = reached(&view, WaitFor::Main).is_some();
            assert_eq!(got, main_done, "{state:?} {main:?} main");
            let got = reached(&view, WaitFor::Stopped).is_some();
            assert_eq!(got, stopped, "{state:?} stopped");
            assert!(reached(&view, WaitFor::Deleted).is_none());
            let gone = View { gone: true, ..view };
            assert!(reached(&gone, WaitFor::Deleted).is_some());
        }
    }
}
