//! The HTTP API: decodes requests, starts operations, encodes answers.
//!
//! One file per subject has its handlers, each documented where it is written; the OpenAPI document
//! is made from those and from the protocol's types ([`document`]). [`guard`] decides who may ask
//! before anything is read, [`serve`] owns the connections.
//!
//! Limits: no decision about VMs or images is taken here, and no request opens a path that a client
//! names. JSON bodies are at most 1 MiB; an import's body is bounded by what an image may hold.

pub mod document;
mod drained;
mod extract;
mod failure;
pub mod guard;
pub mod serve;
mod stream;
mod upgrade;

mod daemon;
mod exec;
mod image;
mod kernel;
mod operation;
mod vm;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::services::Services;
use failure::Failure;
use guard::Access;

type Api = axum::extract::State<Arc<Services>>;

fn routes() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::with_openapi(document::frame())
        .routes(routes!(daemon::show))
        .routes(routes!(daemon::stop))
        .routes(routes!(daemon::doctor))
        .routes(routes!(daemon::openapi))
        .routes(routes!(vm::list, vm::create))
        .routes(routes!(vm::show, vm::delete))
        .routes(routes!(vm::start))
        .routes(routes!(vm::stop))
        .routes(routes!(vm::health))
        .routes(routes!(vm::wait))
        .routes(routes!(vm::logs))
        .routes(routes!(exec::exec))
        .routes(routes!(exec::list))
        .routes(routes!(exec::attach))
        .routes(routes!(exec::main))
        .routes(routes!(image::list))
        .routes(routes!(image::show, image::delete))
        .routes(routes!(image::pull))
        .routes(routes!(image::import))
        .routes(routes!(image::prune))
        .routes(routes!(kernel::list))
        .routes(routes!(kernel::show, kernel::delete))
        .routes(routes!(kernel::pull))
        .routes(routes!(kernel::import))
        .routes(routes!(operation::list))
        .routes(routes!(operation::show))
        .routes(routes!(operation::events))
        .routes(routes!(operation::cancel))
}

/// The whole API.
pub fn router(services: Arc<Services>, access: Access) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(|| async {
            Failure::from(banger_protocol::error::ApiError::new(
                banger_protocol::error::ErrorKind::NotFound,
                "there is no such path in this API",
            ))
            .hint("see /v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Failure::invalid("this path does not know that method")
                .hint("see /v1/openapi.json")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        // Own extractors hold the limits; imports have none but the image's.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(
            Arc::new(access),
            guard::guard,
        ))
        .with_state(services)
}
