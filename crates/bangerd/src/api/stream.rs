//! Answers of long actions: the operation's events line by line, or the operation itself.

use std::convert::Infallible;
use std::future::Future;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_protocol::api::NDJSON;
use banger_protocol::api::operation::{OperationEvent, OperationKind, OperationResult};
use banger_protocol::error::ApiError;
use futures_util::{Stream, StreamExt};

use super::failure::Failure;
use crate::operation::{Context, Handle, Operations};

/// Starts an operation and answers with its events, or with `202` where the client goes away.
pub fn run<W, F>(
    operations: &Operations,
    detach: bool,
    kind: OperationKind,
    subject: impl Into<String>,
    work: W,
) -> Result<Response, Failure>
where
    W: FnOnce(Context) -> F,
    F: Future<Output = Result<OperationResult, ApiError>> + Send + 'static,
{
    let handle = operations.start(kind, subject, work)?;
    if detach {
        return Ok((StatusCode::ACCEPTED, Json(handle.snapshot())).into_response());
    }
    let client = handle.cancel_on_drop();
    Ok(lines(handle.events().map(move |event| {
        // The body lives as long as the client listens, and the closure as long as the body.
        let _ = &client;
        event
    })))
}

/// The events of an operation for one more listener, whose going away means nothing.
pub fn follow(handle: &Handle) -> Response {
    lines(handle.events())
}

fn lines(events: impl Stream<Item = OperationEvent> + Send + 'static) -> Response {
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}
