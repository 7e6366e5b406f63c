//! Kernels.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use banger_protocol::api::kernel::{ImportKernel, Kernel, KernelList, PullKernel};
use banger_protocol::api::operation::{Operation, OperationEvent, OperationKind, OperationResult};
use banger_protocol::api::vm::OperationQuery;
use banger_protocol::api::{NDJSON, path};
use banger_protocol::error::ApiError;
use banger_protocol::name::KernelName;

use super::Api;
use super::document::Octets;
use super::extract::{JsonBody, Parameters, Segments};
use super::failure::{Failure, Lookup, Starting, WithBody};
use super::stream;

/// Lists kernels, those that are here and those that could be pulled.
#[utoipa::path(
    get, path = path::KERNELS, tag = "kernels", operation_id = "listKernels",
    responses((status = 200, description = "The kernels.", body = KernelList))
)]
pub async fn list(State(services): Api) -> Result<Json<KernelList>, Failure> {
    Ok(Json(services.kernels.list().await?))
}

/// Shows one kernel.
#[utoipa::path(
    get, path = path::KERNEL, tag = "kernels", operation_id = "showKernel",
    params(("kernel" = KernelName, Path, description = "Local name.")),
    responses((status = 200, description = "The kernel.", body = Kernel), Lookup)
)]
pub async fn show(
    State(services): Api,
    Segments(name): Segments<KernelName>,
) -> Result<Json<Kernel>, Failure> {
    Ok(Json(services.kernels.show(&name).await?))
}

/// Removes a kernel. VMs that were created with it keep it.
#[utoipa::path(
    delete, path = path::KERNEL, tag = "kernels", operation_id = "deleteKernel",
    params(("kernel" = KernelName, Path, description = "Local name.")),
    responses((status = 204, description = "It is gone."), Lookup)
)]
pub async fn delete(
    State(services): Api,
    Segments(name): Segments<KernelName>,
) -> Result<StatusCode, Failure> {
    services.kernels.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pulls a kernel of the catalog.
#[utoipa::path(
    post, path = path::KERNEL_PULL, tag = "kernels", operation_id = "pullKernel",
    params(OperationQuery), request_body = PullKernel,
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        WithBody, Starting
    )
)]
pub async fn pull(
    State(services): Api,
    Parameters(query): Parameters<OperationQuery>,
    JsonBody(request): JsonBody<PullKernel>,
) -> Result<Response, Failure> {
    let kernels = services.kernels.clone();
    let subject = request.name.to_string();
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::KernelPull,
        subject,
        |context| async move {
            let kernel = kernels.pull(&request.name, request.force, &context).await?;
            done(kernel)
        },
    )
}

/// Imports a kernel from a tar archive, which is the request's body.
#[utoipa::path(
    post, path = path::KERNEL_IMPORT, tag = "kernels", operation_id = "importKernel",
    params(ImportKernel),
    request_body(content = Octets, content_type = "application/x-tar", description = "A directory or one file, as tar."),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        Starting
    )
)]
pub async fn import(
    State(services): Api,
    Parameters(request): Parameters<ImportKernel>,
    body: Body,
) -> Result<Response, Failure> {
    let kernels = services.kernels.clone();
    let subject = request.name.to_string();
    stream::run(
        &services.operations,
        false,
        OperationKind::KernelImport,
        subject,
        |context| async move { done(kernels.import(request, body, &context).await?) },
    )
}

fn done(kernel: Kernel) -> Result<OperationResult, ApiError> {
    Ok(OperationResult::Kernel {
        kernel: Box::new(kernel),
    })
}
