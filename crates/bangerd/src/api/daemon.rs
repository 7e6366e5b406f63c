//! The daemon itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use banger_protocol::api::daemon::{DaemonInfo, DoctorReport};
use banger_protocol::api::path;

use super::{Api, document};

/// Says who answers. Needs no API version, so that every client can ask every daemon.
#[utoipa::path(
    get, path = path::DAEMON, tag = "daemon", operation_id = "showDaemon",
    responses((status = 200, description = "The daemon.", body = DaemonInfo))
)]
pub async fn show(State(services): Api) -> Json<DaemonInfo> {
    Json(services.info())
}

/// Stops the daemon: it cancels running operations and answers nothing more. VMs go on.
#[utoipa::path(
    post, path = path::DAEMON_STOP, tag = "daemon", operation_id = "stopDaemon",
    responses((status = 202, description = "It will have stopped when its socket refuses connections."))
)]
pub async fn stop(State(services): Api) -> StatusCode {
    tracing::info!("asked to stop");
    services.stop.cancel();
    StatusCode::ACCEPTED
}

/// Checks what banger needs of this host.
#[utoipa::path(
    get, path = path::DOCTOR, tag = "daemon", operation_id = "doctor",
    responses((status = 200, description = "What was found.", body = DoctorReport))
)]
pub async fn doctor(State(services): Api) -> Json<DoctorReport> {
    Json(services.doctor().await)
}

/// This document.
#[utoipa::path(
    get, path = path::OPENAPI, tag = "daemon", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value, content_type = "application/json"))
)]
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document::text())
}
