//! Long actions: attached, detached, followed, cancelled, abandoned.

use banger_protocol::api::image::{Image, ImageList};
use banger_protocol::api::operation::{
    Operation, OperationEvent, OperationKind, OperationList, OperationResult, OperationState,
};
use banger_protocol::error::ErrorKind;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use serde_json::json;

use crate::support::client::{Body, Client, Lines, full};
use crate::support::{World, tar, until};
use crate::vm_support::guest::Behaviour;
use crate::vm_support::have_mke2fs;

const IMPORT: &str = "/v1/images/import?kind=rootfs&name=slow&source=rootfs:slow";

/// A body that begins and then says nothing more.
fn endless(begin: Vec<u8>) -> Body {
    let pieces =
        stream::once(async move { Ok(Frame::data(Bytes::from(begin))) }).chain(stream::pending());
    BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(pieces))))
}

/// Streams of the test are only ever polled by one task.
struct SyncStream<S>(std::pin::Pin<Box<S>>);

// SAFETY: the only method takes `&mut self`, so no two threads can reach the stream at once.
unsafe impl<S: Send> Sync for SyncStream<S> {}

impl<S: stream::Stream> stream::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

async fn list(client: &Client) -> Vec<Operation> {
    client
        .get("/v1/operations")
        .await
        .ok::<OperationList>()
        .operations
}

async fn images(client: &Client) -> Vec<Image> {
    client.get("/v1/images").await.ok::<ImageList>().images
}

/// Begins an import that waits for more of its archive.
async fn slow_import(client: &Client) -> (Lines, Operation) {
    let mut archive = tar("file", &vec![7; 100_000]);
    archive.truncate(50_000);
    let request = client.request("POST", IMPORT, endless(archive));
    let mut lines = Lines::new(client.send(request).await);
    match lines.next().await {
        Some(OperationEvent::Started { operation }) => (lines, operation),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_attached_operation_streams_until_its_end() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let answer = client
        .import("tiny", "rootfs:tiny", tar("hello", b"hi"))
        .await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let events = answer.events();
    assert!(matches!(&events[0], OperationEvent::Started { operation }
        if operation.kind == OperationKind::ImageImport && operation.subject == "tiny"));
    assert!(
        events[1..events.len() - 1]
            .iter()
            .all(|event| matches!(event, OperationEvent::Progress { .. }))
    );
    let ended = answer.ended();
    assert_eq!(ended.state, OperationState::Succeeded);
    assert!(ended.ended_at.is_some() && ended.error.is_none());
    let Some(OperationResult::Image { image }) = &ended.result else {
        panic!("{ended:?}");
    };
    assert_eq!(image.name.as_str(), "tiny");

    // The result is kept, and its stream can be had again.
    let path = format!("/v1/operations/{}", ended.id);
    assert_eq!(client.get(&path).await.ok::<Operation>(), ended);
    let again = client.get(&format!("{path}/events")).await;
    assert_eq!(again.ended(), ended);
    // Cancelling what has ended changes nothing.
    let cancelled: Operation = client.poke(&format!("{path}/cancel")).await.ok();
    assert_eq!(cancelled, ended);
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_undoes_what_was_half_done() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let before = world.files("images");
    let (lines, operation) = slow_import(&client).await;
    until("it is being written", || world.files("images") != before).await;
    drop(lines);
    let path = format!("/v1/operations/{}/events", operation.id);
    let ended = client.get(&path).await.ended();
    assert_eq!(ended.state, OperationState::Cancelled);
    assert_eq!(ended.error.unwrap().kind, ErrorKind::Cancelled);
    until("nothing is left", || world.files("images") == before).await;
    assert_eq!(images(&client).await, []);
    daemon.stop().await;
}

#[tokio::test]
async fn others_follow_and_cancel() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let (mut lines, operation) = slow_import(&client).await;
    let path = format!("/v1/operations/{}", operation.id);
    let request = client.request("GET", &format!("{path}/events"), full(""));
    let mut follower = Lines::new(client.send(request).await);
    assert!(matches!(
        follower.next().await,
        Some(OperationEvent::Started { .. })
    ));
    // One follower's going away means nothing.
    let request = client.request("GET", &format!("{path}/events"), full(""));
    drop(client.send(request).await);
    assert_eq!(list(&client).await.len(), 1);
    let shown: Operation = client.get(&path).await.ok();
    assert_eq!(shown.state, OperationState::Running);

    client
        .poke(&format!("{path}/cancel"))
        .await
        .ok::<Operation>();
    for stream in [&mut lines, &mut follower] {
        let ended = loop {
            match stream.next().await.expect("a stream ends with `ended`") {
                OperationEvent::Ended { operation } => break operation,
                _ => continue,
            }
        };
        assert_eq!(ended.state, OperationState::Cancelled);
        assert!(stream.next().await.is_none());
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_detached_operation_goes_on_without_its_client() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let answer = client
        .post("/v1/images/prune?detach=true", json!({ "dry_run": true }))
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let operation: Operation = answer.json();
    let path = format!("/v1/operations/{}/events", operation.id);
    let ended = client.get(&path).await.ended();
    assert_eq!(ended.state, OperationState::Succeeded);
    assert!(matches!(ended.result, Some(OperationResult::Pruned { .. })));
    daemon.stop().await;
}

#[tokio::test]
async fn a_detached_operation_is_cancelled_by_word_only() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    client
        .import("tiny", "rootfs:tiny", tar("hello", b"hi"))
        .await
        .ended();
    world.guests.behave(Behaviour {
        hangs_at_boot: true,
        ..Behaviour::default()
    });
    // Each request has a connection of its own, so its client is gone once this is answered.
    let answer = client
        .post("/v1/vms?detach=true", json!({ "name": "web" }))
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let operation: Operation = answer.json();
    until("it boots", || !world.vmm.running().is_empty()).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let path = format!("/v1/operations/{}", operation.id);
    let shown: Operation = client.get(&path).await.ok();
    assert_eq!(shown.state, OperationState::Running);

    client
        .poke(&format!("{path}/cancel"))
        .await
        .ok::<Operation>();
    let ended = client.get(&format!("{path}/events")).await.ended();
    assert_eq!(ended.state, OperationState::Cancelled);
    assert_eq!(
        client.get("/v1/vms/web").await.status,
        StatusCode::NOT_FOUND
    );
    assert!(world.vmm.running().is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_stopping_daemon_ends_operations_and_tells_their_clients() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let before = world.files("images");
    let (mut lines, _) = slow_import(&client).await;
    assert_eq!(
        client.poke("/v1/daemon/stop").await.status,
        StatusCode::ACCEPTED
    );
    let mut last = None;
    while let Some(event) = lines.next().await {
        last = Some(event);
    }
    assert!(
        matches!(&last, Some(OperationEvent::Ended { operation })
            if operation.state == OperationState::Cancelled),
        "{last:?}"
    );
    daemon.stopped().await;
    until("nothing is left", || world.files("images") == before).await;
}
