//! One daemon for one directory, and what becomes of it.

use banger_protocol::api::vm::{Vm, VmList, VmState};
use banger_protocol::error::ErrorKind;
use hyper::StatusCode;
use serde_json::json;

use crate::support::{World, tar};
use crate::vm_support::have_mke2fs;

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let daemon = world.start().await;
    let error = world.open().await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::DaemonUnavailable);
    assert!(
        error.message.contains(&std::process::id().to_string()),
        "{error}"
    );
    assert_eq!(daemon.client().get("/v1/vms").await.status, StatusCode::OK);
    daemon.stop().await;
    let again = world.start().await;
    again.stop().await;
}

#[tokio::test]
async fn it_goes_when_asked_and_takes_its_socket_along() {
    let world = World::new();
    let daemon = world.start().await;
    let socket = daemon.layout.socket();
    let answer = daemon.client().poke("/v1/daemon/stop").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    daemon.stopped().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_failed_start_leaves_what_was_there() {
    let world = World::new();
    std::fs::create_dir(world.layout().runtime).unwrap();
    std::fs::write(world.layout().socket(), "theirs").unwrap();
    let error = world.open().await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::DaemonUnavailable);
    assert_eq!(std::fs::read(world.layout().socket()).unwrap(), b"theirs");
    std::fs::remove_file(world.layout().socket()).unwrap();
    // The lock is free again.
    world.start().await.stop().await;
}

#[tokio::test]
async fn a_store_of_another_program_is_left_alone() {
    let world = World::new();
    let store = world.state().join("state.db");
    std::fs::write(&store, "no store of ours, whatever it is").unwrap();
    let error = world.open().await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::BadConfig, "{error}");
    assert_eq!(
        std::fs::read(&store).unwrap(),
        b"no store of ours, whatever it is"
    );
}

#[tokio::test]
async fn machines_go_on_and_are_taken_over() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    client
        .import("tiny", "rootfs:a", tar("f", b"x"))
        .await
        .ended();
    client
        .post("/v1/vms", json!({ "name": "web" }))
        .await
        .ended();
    let before: Vm = client.get("/v1/vms/web").await.ok();
    assert_eq!(before.state, VmState::Running);
    daemon.stop().await;
    assert_eq!(world.vmm.running().len(), 1);

    let daemon = world.start().await;
    let list: VmList = daemon.client().get("/v1/vms").await.ok();
    assert_eq!(list.vms.len(), 1);
    let after: Vm = daemon
        .client()
        .get("/v1/vms/web/wait?for=ready&timeout_ms=20000")
        .await
        .ok::<banger_protocol::api::vm::WaitResult>()
        .vm
        .unwrap();
    assert_eq!(after.machine, before.machine);
    daemon.client().delete("/v1/vms/web").await.ended();
    assert!(world.vmm.running().is_empty());
    daemon.stop().await;
}
