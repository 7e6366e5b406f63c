//! A state directory whose file system is full: each request says so, nothing half done remains,
//! and what was there goes on and can be deleted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use banger_protocol::api::operation::OperationState;
use banger_protocol::api::vm::{Vm, VmList, VmState};
use banger_protocol::error::ErrorKind;
use serde_json::json;

use crate::support::client::{Answer, Client};
use crate::support::{World, tar};
use crate::vm_support::have_mke2fs;

/// A file system of its own for one directory.
struct Small(PathBuf);

impl Small {
    fn mount(directory: &Path, size: &str) -> Option<Small> {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "none"])
            .arg(directory)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: mount");
            return None;
        }
        Some(Small(directory.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.filler())
            .unwrap();
        let mut piece = 64 << 10;
        while piece > 0 {
            if file.write_all(&vec![1; piece]).is_err() {
                piece /= 2;
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}

#[track_caller]
fn no_space(answer: &Answer) {
    let ended = answer.ended();
    assert_eq!(ended.state, OperationState::Failed);
    let error = ended.error.unwrap();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.hint.is_some(), "{error}");
}

/// What lies below the state directory, but for what grows and shrinks by itself.
fn files(world: &World) -> Vec<String> {
    let mut files = world.files("");
    files.retain(|file| !file.starts_with("state.db") && file != "filler");
    files
}

async fn until_state(client: &Client, state: VmState) -> Vm {
    let reached = async {
        loop {
            let shown: Vm = client.get("/v1/vms/runs").await.ok();
            if shown.state == state {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("the state in time")
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_nothing() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let Some(small) = Small::mount(&world.state(), "size=8m,mode=0700") else {
        return;
    };
    world.put_kernel();
    let daemon = world.start().await;
    let client = daemon.client();
    client
        .import("tiny", "rootfs:tiny", tar("f", b"x"))
        .await
        .ended();
    for name in ["runs", "waits"] {
        let ended = client
            .post(
                "/v1/vms",
                json!({ "name": name, "no_start": name == "waits" }),
            )
            .await
            .ended();
        assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    }
    let before = files(&world);

    small.fill();
    no_space(
        &client
            .import("big", "rootfs:big", tar("f", &vec![1; 1 << 20]))
            .await,
    );
    no_space(&client.post("/v1/vms", json!({ "name": "more" })).await);
    // A VM that did not start is kept, failed; it holds links and takes no room.
    let failed: Vm = client.get("/v1/vms/more").await.ok();
    assert_eq!(failed.state, VmState::Failed);
    let deleted = client.delete("/v1/vms/more").await.ended();
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    assert_eq!(files(&world), before, "nothing half done remains");
    // What runs goes on, and is told to.
    let list: VmList = client.get("/v1/vms").await.ok();
    let states: Vec<VmState> = list.vms.iter().map(|vm| vm.state).collect();
    assert_eq!(states, [VmState::Running, VmState::Created]);
    // A guest whose VMM waits for room is silent, and its VM says why.
    let guest = world.guests.of(list.vms[0].id.as_str());
    let silent = |so| guest.silent.store(so, Ordering::SeqCst);
    silent(true);
    let shown = until_state(&client, VmState::Unresponsive).await;
    let note = shown.note.unwrap_or_default();
    assert!(note.contains("is full"), "{note}");
    silent(false);
    assert_eq!(until_state(&client, VmState::Running).await.note, None);
    // It ends, too, and its end is known.
    let stopped = client.poke("/v1/vms/runs/stop").await.ended();
    let shown: Vm = client.get("/v1/vms/runs").await.ok();
    assert_eq!(shown.state, VmState::Stopped, "{stopped:?}");
    // Deleting is the remedy, so it works.
    let deleted = client.delete("/v1/vms/waits").await.ended();
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");

    // A daemon that begins on a full disk says what it lacks.
    daemon.stop().await;
    small.fill();
    let error = world.open().await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.hint.is_some(), "{error}");

    small.free();
    let daemon = world.start().await;
    let client = daemon.client();
    let started = client.poke("/v1/vms/runs/start").await.ended();
    assert_eq!(started.state, OperationState::Succeeded, "{started:?}");
    daemon.stop().await;
    // What was not stored while the disk was full is stored now.
    let daemon = world.start().await;
    let list: VmList = daemon.client().get("/v1/vms").await.ok();
    let states: Vec<VmState> = list.vms.iter().map(|vm| vm.state).collect();
    assert_eq!(states, [VmState::Running]);
    daemon.client().delete("/v1/vms/runs").await.ended();
    daemon.stop().await;
    assert!(world.vmm.running().is_empty());
}
