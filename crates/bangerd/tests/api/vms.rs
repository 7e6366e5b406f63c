//! VMs over the API, from creation to deletion.

use banger_protocol::api::exec::ExecList;
use banger_protocol::api::operation::{OperationResult, OperationState};
use banger_protocol::api::vm::{Vm, VmHealth, VmList, VmState, WaitResult};
use banger_protocol::error::ErrorKind;
use banger_protocol::exec::{Decoder, Direction, ExitStatus, Frame};
use hyper::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::{Answer, Client};
use crate::support::{Running, World, tar};
use crate::vm_support::have_mke2fs;

async fn with_image(world: &World) -> Running {
    let daemon = world.start().await;
    let imported = daemon
        .client()
        .import("tiny", "rootfs:tiny", tar("hello", b"hi"))
        .await;
    assert_eq!(imported.ended().state, OperationState::Succeeded);
    daemon
}

fn vm(answer: &Answer) -> Vm {
    let ended = answer.ended();
    match ended.result {
        Some(OperationResult::Vm { vm }) => *vm,
        _ => panic!("{ended:?}"),
    }
}

/// Runs a process and returns what it printed and how it ended.
async fn run(client: &Client, path: &str, command: &[&str], stdin: &[u8]) -> (Vec<u8>, ExitStatus) {
    let body = json!({ "command": command, "stdin": true });
    let mut stream = client.upgrade(path, &body).await.unwrap();
    let mut sent = Vec::new();
    if !stdin.is_empty() {
        Frame::Stdin(stdin.to_vec().into()).encode(&mut sent);
    }
    Frame::StdinEof.encode(&mut sent);
    // A process that has ended by then reads no more.
    let _ = stream.write_all(&sent).await;
    let mut decoder = Decoder::new(Direction::GuestToClient);
    let mut output = Vec::new();
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            match frame {
                Frame::Stdout(bytes) => output.extend_from_slice(&bytes),
                Frame::Exit(status) => return (output, status),
                _ => {}
            }
        }
        let mut piece = vec![0; 64 * 1024];
        let count = stream.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "the stream ended before the process");
        piece.truncate(count);
        decoder.push(piece.into());
    }
}

#[tokio::test]
async fn from_creation_to_deletion() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let daemon = with_image(&world).await;
    let client = daemon.client();

    let answer = client.post("/v1/vms", json!({ "name": "web" })).await;
    let created = vm(&answer);
    assert_eq!(created.state, VmState::Running);
    assert_eq!((created.memory_mib, created.disk_mib), (256, 16));
    let phases: Vec<&str> = created
        .timings
        .iter()
        .map(|timing| timing.phase.as_str())
        .collect();
    assert_eq!(&phases[..3], ["image", "kernel", "create"], "{phases:?}");
    let list: VmList = client.get("/v1/vms").await.ok();
    assert_eq!(list.vms.len(), 1);
    // By the beginning of its id, too.
    let prefix = &created.id.as_str()[..6];
    let shown: Vm = client.get(&format!("/v1/vms/{prefix}")).await.ok();
    assert_eq!(shown.name.as_str(), "web");

    let health: VmHealth = client.get("/v1/vms/web/health").await.ok();
    assert!(health.healthy, "{health:?}");
    let (output, status) = run(&client, "/v1/vms/web/exec", &["cat"], b"through the guest").await;
    assert_eq!(output, b"through the guest");
    assert_eq!(status, ExitStatus::Code(0));
    let (_, status) = run(&client, "/v1/vms/web/exec", &["exit", "7"], b"").await;
    assert_eq!(status, ExitStatus::Code(7));
    let execs: ExecList = client.get("/v1/vms/web/execs").await.ok();
    assert_eq!(execs.execs.len(), 2);

    let taken = client
        .post("/v1/vms", json!({ "name": "web" }))
        .await
        .error();
    assert_eq!(taken.kind, ErrorKind::AlreadyExists);

    let stopped = vm(&client.poke("/v1/vms/web/stop").await);
    assert_eq!(stopped.state, VmState::Stopped);
    let refused = client
        .upgrade("/v1/vms/web/exec", &json!({ "command": ["cat"] }))
        .await
        .err()
        .unwrap()
        .error();
    assert_eq!(refused.kind, ErrorKind::WrongState);
    let waited: WaitResult = client.get("/v1/vms/web/wait?for=stopped").await.ok();
    assert!(waited.vm.is_some());
    let late = client.get("/v1/vms/web/wait?for=ready&timeout_ms=10").await;
    assert_eq!(late.status, StatusCode::REQUEST_TIMEOUT);

    let console = client.get("/v1/vms/web/logs?console=true").await;
    assert_eq!(console.status, StatusCode::OK);
    assert_eq!(console.headers["content-type"], "application/octet-stream");

    let deleted = client.delete("/v1/vms/web").await.ended();
    assert_eq!(
        deleted.result,
        Some(OperationResult::Deleted {
            name: "web".to_owned()
        })
    );
    assert_eq!(
        client.get("/v1/vms/web").await.error().kind,
        ErrorKind::NotFound
    );
    daemon.stop().await;
}

#[tokio::test]
async fn main_runs_by_upgrade_and_is_waited_for() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let daemon = with_image(&world).await;
    let client = daemon.client();
    let body = json!({ "name": "job", "ephemeral": true });
    vm(&client.post("/v1/vms", body).await);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/v1/vms/job/wait?for=deleted").await })
    };
    let (_, status) = run(&client, "/v1/vms/job/main", &["exit", "3"], b"").await;
    assert_eq!(status, ExitStatus::Code(3));
    let waited: WaitResult = waiting.await.unwrap().ok();
    assert_eq!((waited.vm, waited.exit_code), (None, Some(3)));
    daemon.stop().await;
}

#[tokio::test]
async fn what_cannot_be_created_leaves_nothing() {
    let world = World::new();
    let daemon = with_image(&world).await;
    let client = daemon.client();
    let before = world.files("");
    for (body, kind) in [
        (json!({ "vcpus": 100_000 }), ErrorKind::InvalidArgument),
        (json!({ "memory_mib": 1 }), ErrorKind::InvalidArgument),
        (
            json!({ "env": ["no equals sign"] }),
            ErrorKind::InvalidArgument,
        ),
        (json!({ "image": "tiny-." }), ErrorKind::NotFound),
    ] {
        let ended = client.post("/v1/vms", body.clone()).await.ended();
        assert_eq!(ended.error.unwrap().kind, kind, "{body}");
    }
    let after: Vec<String> = world
        .files("")
        .into_iter()
        .filter(|file| !file.starts_with("initramfs/") && !file.starts_with("state.db"))
        .collect();
    let before: Vec<String> = before
        .into_iter()
        .filter(|file| !file.starts_with("state.db"))
        .collect();
    assert_eq!(after, before);
    daemon.stop().await;
}
