//! Images.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use banger_protocol::api::image::{Image, ImageList, ImportImage, PruneImages, PullImage};
use banger_protocol::api::operation::{Operation, OperationEvent, OperationKind, OperationResult};
use banger_protocol::api::vm::OperationQuery;
use banger_protocol::api::{NDJSON, path};
use banger_protocol::name::{ImageName, KernelName};

use super::Api;
use super::document::Octets;
use super::extract::{JsonBody, Parameters, Segments};
use super::failure::{Failure, Lookup, Starting, WithBody};
use super::stream;
use crate::image::Wanted;
use crate::services::Services;

/// Lists images, by name.
#[utoipa::path(
    get, path = path::IMAGES, tag = "images", operation_id = "listImages",
    responses((status = 200, description = "The images.", body = ImageList))
)]
pub async fn list(State(services): Api) -> Result<Json<ImageList>, Failure> {
    let images = services.images.list()?;
    Ok(Json(ImageList { images }))
}

/// Shows one image.
#[utoipa::path(
    get, path = path::IMAGE, tag = "images", operation_id = "showImage",
    params(("image" = ImageName, Path, description = "Local name.")),
    responses((status = 200, description = "The image.", body = Image), Lookup)
)]
pub async fn show(
    State(services): Api,
    Segments(name): Segments<ImageName>,
) -> Result<Json<Image>, Failure> {
    Ok(Json(services.images.show(&name)?))
}

/// Removes an image's name. Its file goes with the last VM that uses it.
#[utoipa::path(
    delete, path = path::IMAGE, tag = "images", operation_id = "deleteImage",
    params(("image" = ImageName, Path, description = "Local name.")),
    responses((status = 204, description = "It is gone."), Lookup)
)]
pub async fn delete(
    State(services): Api,
    Segments(name): Segments<ImageName>,
) -> Result<StatusCode, Failure> {
    services.images.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pulls an image from a registry, or builds one of the catalog.
#[utoipa::path(
    post, path = path::IMAGE_PULL, tag = "images", operation_id = "pullImage",
    params(OperationQuery), request_body = PullImage,
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        WithBody, Starting, Lookup
    )
)]
pub async fn pull(
    State(services): Api,
    Parameters(query): Parameters<OperationQuery>,
    JsonBody(request): JsonBody<PullImage>,
) -> Result<Response, Failure> {
    let images = services.images.clone();
    let wanted = Wanted::parse(&request.reference, images.catalog())?;
    check_kernel(&services, request.kernel.as_ref()).await?;
    let subject = request.reference.clone();
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::ImagePull,
        subject,
        |context| async move {
            let image = images
                .pull(
                    wanted,
                    request.name,
                    request.kernel,
                    request.credentials,
                    &context,
                )
                .await?;
            Ok(OperationResult::Image {
                image: Box::new(image),
            })
        },
    )
}

/// Imports an image from an archive, which is the request's body.
#[utoipa::path(
    post, path = path::IMAGE_IMPORT, tag = "images", operation_id = "importImage",
    params(ImportImage),
    request_body(content = Octets, content_type = "application/octet-stream", description = "The archive."),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        Starting, Lookup
    )
)]
pub async fn import(
    State(services): Api,
    Parameters(request): Parameters<ImportImage>,
    body: Body,
) -> Result<Response, Failure> {
    check_kernel(&services, request.kernel.as_ref()).await?;
    let images = services.images.clone();
    let subject = request.name.to_string();
    stream::run(
        &services.operations,
        false,
        OperationKind::ImageImport,
        subject,
        |context| async move {
            let image = images.import(request, body, &context).await?;
            Ok(OperationResult::Image {
                image: Box::new(image),
            })
        },
    )
}

/// A kernel that nobody knows is an error before anything is fetched.
async fn check_kernel(services: &Services, kernel: Option<&KernelName>) -> Result<(), Failure> {
    match kernel {
        Some(name) => Ok(services.kernels.check_known(name).await?),
        None => Ok(()),
    }
}

/// Removes downloaded layers, and base files that no image names.
#[utoipa::path(
    post, path = path::IMAGE_PRUNE, tag = "images", operation_id = "pruneImages",
    params(OperationQuery), request_body = PruneImages,
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        WithBody, Starting
    )
)]
pub async fn prune(
    State(services): Api,
    Parameters(query): Parameters<OperationQuery>,
    JsonBody(request): JsonBody<PruneImages>,
) -> Result<Response, Failure> {
    let images = services.images.clone();
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::ImagePrune,
        "",
        |context| async move {
            context.stage("prune", "");
            let report = images.prune(request.dry_run).await?;
            Ok(OperationResult::Pruned { report })
        },
    )
}
