//! A daemon with fake machines on a TCP port of the loopback interface, for fuzzers of its API.
//!
//! `api_server` prints the port it got and serves until its standard input ends. A VM `web`, an image
//! `tiny` and a kernel `k-test` are there, so that a fuzzer finds more than absences.
//!
//! Limits: bytes are copied between TCP and the daemon's socket unseen; the product has no such
//! listener.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "tests use the rest of it")]
#[path = "../tests/vm_support/mod.rs"]
mod vm_support;

#[expect(dead_code, reason = "tests use the rest of it")]
#[path = "../tests/api/support/mod.rs"]
mod support;

use std::io::Write as _;

use serde_json::json;
use tokio::net::{TcpListener, UnixStream};

use support::{World, tar};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    client
        .import("tiny", "rootfs:tiny", tar("hello", b"hi"))
        .await
        .ended();
    client
        .post("/v1/vms", json!({ "name": "web" }))
        .await
        .ended();

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    println!("{port}");
    std::io::stdout().flush().expect("standard output");

    let socket = daemon.layout.socket();
    let bridge = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut unix) = UnixStream::connect(socket).await {
                    let _ = tokio::io::copy_bidirectional(&mut tcp, &mut unix).await;
                }
            });
        }
    });
    let ended =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
    bridge.abort();
    daemon.stop().await;
}
