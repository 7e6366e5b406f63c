//! Requests that ask for nothing sensible, and what each gets.

use crate::support;
use crate::support::World;
use crate::support::client::{Body, Client, full};
use banger_protocol::api::VERSION_HEADER;
use banger_protocol::api::daemon::{CheckStatus, DaemonInfo, DoctorReport};
use banger_protocol::error::ErrorKind;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn bad_requests_get_json_errors() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let get = |path: &str| client.request("GET", path, full(""));
    let typed = |method: &str, path: &str, media: &str, body: &'static str| {
        let mut request = client.request(method, path, full(body));
        request
            .headers_mut()
            .insert("content-type", media.parse().unwrap());
        request
    };
    let json_type = "application/json";
    let cases: Vec<(Request<Body>, u16, ErrorKind, &str)> = vec![
        (get("/"), 404, ErrorKind::NotFound, "no such path"),
        (get("/v1/vms/"), 404, ErrorKind::NotFound, "no such path"),
        (get("/v1/nowhere"), 404, ErrorKind::NotFound, "no such path"),
        (
            client.request("PUT", "/v1/vms", full("")),
            405,
            ErrorKind::InvalidArgument,
            "method",
        ),
        (
            client.request("BREW", "/v1/daemon/stop", full("")),
            405,
            ErrorKind::InvalidArgument,
            "method",
        ),
        (
            typed("POST", "/v1/images/prune", "text/plain", "{}"),
            415,
            ErrorKind::InvalidArgument,
            "application/json",
        ),
        (
            client.request("POST", "/v1/images/prune", full("{}")),
            415,
            ErrorKind::InvalidArgument,
            "application/json",
        ),
        (
            typed("POST", "/v1/images/prune", json_type, ""),
            400,
            ErrorKind::InvalidArgument,
            "body",
        ),
        (
            typed("POST", "/v1/images/prune", json_type, "{\"dry_run\": 1}"),
            400,
            ErrorKind::InvalidArgument,
            "boolean",
        ),
        (
            typed("POST", "/v1/images/prune", json_type, "{\"dry\": true}"),
            400,
            ErrorKind::InvalidArgument,
            "dry",
        ),
        (
            typed("POST", "/v1/images/prune", json_type, "{} {}"),
            400,
            ErrorKind::InvalidArgument,
            "trailing",
        ),
        (
            typed("POST", "/v1/images/prune?detach=maybe", json_type, "{}"),
            400,
            ErrorKind::InvalidArgument,
            "query",
        ),
        (
            typed("POST", "/v1/images/prune?other=1", json_type, "{}"),
            400,
            ErrorKind::InvalidArgument,
            "other",
        ),
        (
            typed(
                "POST",
                "/v1/images/pull",
                json_type,
                "{\"reference\": \"\"}",
            ),
            400,
            ErrorKind::InvalidArgument,
            "names no image",
        ),
        (
            typed(
                "POST",
                "/v1/images/pull",
                json_type,
                "{\"reference\": \"a\", \"kernel\": \"none-such\"}",
            ),
            404,
            ErrorKind::NotFound,
            "none-such",
        ),
        (
            typed("POST", "/v1/vms", json_type, "{\"name\": \"Upper\"}"),
            400,
            ErrorKind::InvalidArgument,
            "VM name",
        ),
        (
            typed("POST", "/v1/vms", json_type, "{\"vcpus\": 0}"),
            400,
            ErrorKind::InvalidArgument,
            "vcpus",
        ),
        (
            typed("POST", "/v1/vms", json_type, "{\"vcpus\": -1}"),
            400,
            ErrorKind::InvalidArgument,
            "-1",
        ),
        (
            typed("POST", "/v1/vms", json_type, "{\"memory_mib\": 0}"),
            400,
            ErrorKind::InvalidArgument,
            "memory_mib",
        ),
        (
            typed(
                "POST",
                "/v1/kernels/pull",
                json_type,
                "{\"name\": \"../x\"}",
            ),
            400,
            ErrorKind::InvalidArgument,
            "kernel name",
        ),
        (
            client.request(
                "POST",
                "/v1/images/import?kind=floppy&name=a&source=b",
                full(""),
            ),
            400,
            ErrorKind::InvalidArgument,
            "floppy",
        ),
        (
            client.request("POST", "/v1/images/import", full("")),
            400,
            ErrorKind::InvalidArgument,
            "kind",
        ),
        (
            get("/v1/vms/UPPER"),
            400,
            ErrorKind::InvalidArgument,
            "VM is named",
        ),
        (get("/v1/vms/%ff"), 400, ErrorKind::InvalidArgument, "UTF-8"),
        (
            get("/v1/vms/a%2Fb"),
            400,
            ErrorKind::InvalidArgument,
            "VM is named",
        ),
        (get("/v1/vms/absent"), 404, ErrorKind::NotFound, "absent"),
        (
            get("/v1/vms/absent/logs?tail=-1"),
            400,
            ErrorKind::InvalidArgument,
            "query",
        ),
        (
            get("/v1/vms/absent/wait"),
            400,
            ErrorKind::InvalidArgument,
            "for",
        ),
        (
            get("/v1/vms/absent/wait?for=ready&timeout_ms=3600001"),
            400,
            ErrorKind::InvalidArgument,
            "timeout_ms",
        ),
        (
            get("/v1/images/..%2Fx"),
            400,
            ErrorKind::InvalidArgument,
            "image name",
        ),
        (get("/v1/images/absent"), 404, ErrorKind::NotFound, "absent"),
        (
            get("/v1/kernels/absent"),
            404,
            ErrorKind::NotFound,
            "absent",
        ),
        (
            client.request("DELETE", "/v1/kernels/absent", full("")),
            404,
            ErrorKind::NotFound,
            "absent",
        ),
        (
            get("/v1/operations/zz"),
            400,
            ErrorKind::InvalidArgument,
            "operation id",
        ),
        (
            get("/v1/operations/000000000000/events"),
            404,
            ErrorKind::NotFound,
            "000000000000",
        ),
        (
            client.request("POST", "/v1/vms/absent/start", full("")),
            404,
            ErrorKind::NotFound,
            "absent",
        ),
        (
            typed("POST", "/v1/vms/absent/exec", json_type, "{}"),
            426,
            ErrorKind::InvalidArgument,
            "upgrade",
        ),
        (
            client.request("POST", "/v1/vms/absent/execs/x/attach", full("")),
            400,
            ErrorKind::InvalidArgument,
            "x",
        ),
    ];
    for (request, status, kind, words) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = client.whole(request).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
        let error = answer.error();
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.message.contains(words), "{what}: {error}");
        assert!(answer.body.len() < 2000, "{what} answers with much");
        if status == 405 {
            assert!(answer.headers.contains_key("allow"), "{what}");
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_read() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let body = json!({ "reference": "x".repeat(2 << 20) });
    let answer = client.post("/v1/images/pull", body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.error().kind, ErrorKind::TooLarge);
    // Just below it is read, and refused for what it says.
    let body = json!({ "reference": "x".repeat(1 << 19) });
    let answer = client.post("/v1/images/pull", body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.len() < 2000);
    daemon.stop().await;
}

#[tokio::test]
async fn only_the_daemons_own_path_needs_no_version() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let versions = |path: &str, versions: &[&str]| {
        let mut request = client.request("GET", path, full(""));
        request.headers_mut().remove(VERSION_HEADER);
        for version in versions {
            request
                .headers_mut()
                .append(VERSION_HEADER, version.parse().unwrap());
        }
        request
    };
    let info: DaemonInfo = client.whole(versions("/v1/daemon", &[])).await.ok();
    assert_eq!(info.pid, std::process::id());
    assert_eq!(info.socket, daemon.layout.socket().display().to_string());
    assert_eq!(info.defaults.kernel.as_deref(), Some(support::KERNEL));
    for (path, stated) in [
        ("/v1/vms", &[][..]),
        ("/v1/vms", &["2"][..]),
        ("/v1/vms", &["1", "1"][..]),
        ("/v1/nowhere", &[][..]),
    ] {
        let answer = client.whole(versions(path, stated)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {stated:?}");
        assert_eq!(answer.error().kind, ErrorKind::VersionMismatch);
    }
    daemon.stop().await;
}

/// An odd client must not take others with it: what is no HTTP at all ends its own connection.
#[tokio::test]
async fn what_is_no_http_ends_only_its_own_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new();
    let daemon = world.start().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/vms HTTP/1.1\r\nbanger-api-version: 1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = tokio::net::UnixStream::connect(daemon.layout.socket())
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let first = String::from_utf8_lossy(&answer).lines().next().map(str::to_owned);
        assert!(
            first.as_deref().is_none_or(|line| line.contains(" 4")),
            "{first:?}"
        );
    }
    list_is_empty(&daemon.client()).await;
    daemon.stop().await;
}

async fn list_is_empty(client: &Client) {
    let list: Value = client.get("/v1/vms").await.ok();
    assert_eq!(list, json!({ "vms": [] }));
}

#[tokio::test]
async fn doctor_reports_and_the_document_is_served() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let report: DoctorReport = client.get("/v1/doctor").await.ok();
    assert!(report.checks.len() >= 5);
    let worst = report.checks.iter().map(|check| check.status).max();
    assert_eq!(worst, Some(report.status));
    for check in &report.checks {
        let enough = if check.status == CheckStatus::Pass {
            1
        } else {
            3
        };
        assert!(check.details.len() >= enough, "{check:?}");
    }
    let document: Value = client.get("/v1/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    daemon.stop().await;
}
