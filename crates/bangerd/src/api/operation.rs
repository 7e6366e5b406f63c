//! Operations.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_protocol::api::operation::{Operation, OperationEvent, OperationList};
use banger_protocol::api::{NDJSON, path};
use banger_protocol::name::OperationId;

use super::Api;
use super::extract::Segments;
use super::failure::{Failure, Lookup};
use super::stream;

/// Lists operations that run or ended a while ago, oldest first.
#[utoipa::path(
    get, path = path::OPERATIONS, tag = "operations", operation_id = "listOperations",
    responses((status = 200, description = "The operations.", body = OperationList))
)]
pub async fn list(State(services): Api) -> Json<OperationList> {
    Json(OperationList {
        operations: services.operations.list(),
    })
}

/// Shows one operation.
#[utoipa::path(
    get, path = path::OPERATION, tag = "operations", operation_id = "showOperation",
    params(("operation" = OperationId, Path, description = "Id of the operation.")),
    responses((status = 200, description = "The operation.", body = Operation), Lookup)
)]
pub async fn show(
    State(services): Api,
    Segments(id): Segments<OperationId>,
) -> Result<Json<Operation>, Failure> {
    Ok(Json(services.operations.get(&id)?.snapshot()))
}

/// Follows an operation: the stages so far, then what comes.
#[utoipa::path(
    get, path = path::OPERATION_EVENTS, tag = "operations", operation_id = "followOperation",
    params(("operation" = OperationId, Path, description = "Id of the operation.")),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        Lookup
    )
)]
pub async fn events(
    State(services): Api,
    Segments(id): Segments<OperationId>,
) -> Result<Response, Failure> {
    Ok(stream::follow(&services.operations.get(&id)?))
}

/// Cancels an operation. The answer does not wait until everything is undone: follow its events for that.
#[utoipa::path(
    post, path = path::OPERATION_CANCEL, tag = "operations", operation_id = "cancelOperation",
    params(("operation" = OperationId, Path, description = "Id of the operation.")),
    responses(
        (status = 200, description = "The operation, which may still be running, or have ended before.", body = Operation),
        Lookup
    )
)]
pub async fn cancel(
    State(services): Api,
    Segments(id): Segments<OperationId>,
) -> Result<Json<Operation>, Failure> {
    let handle = services.operations.get(&id)?;
    handle.cancel();
    Ok(Json(handle.snapshot()))
}
