//! The OpenAPI document: made from handlers and types, completed with what is true of every path.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use banger_protocol::api::image::ArchiveKind;
use banger_protocol::api::vm::WaitFor;
use banger_protocol::api::{VERSION, VERSION_HEADER, path};
use banger_protocol::name::{ImageName, KernelName, OperationId};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{
    ComponentsBuilder, Info, OpenApi, OpenApiBuilder, PathsBuilder, RefOr, Required, Response,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::extract::VmReference;
use super::failure::Always;

/// Bytes that are streamed in or out as they are.
pub(super) struct Octets;

impl PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .into()
    }
}

impl ToSchema for Octets {}

/// What stands around the paths.
pub(super) fn frame() -> OpenApi {
    let mut info = Info::new("bangerd", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The API of bangerd: HTTP/1.1 and JSON on a Unix socket.\n\n\
         Every request but `GET /v1/daemon` says in `banger-api-version` which version it speaks. \
         Every error is an `ApiError`, whatever its status.\n\n\
         Long actions are operations. Without `detach` the answer is a stream of `OperationEvent`, one \
         JSON object a line, which begins with `started` and ends with `ended`; a client that hangs up \
         before the end cancels the operation, and what was half done is undone. With `detach=true` the \
         answer is `202` with the `Operation`, which goes on without the client."
            .to_owned(),
    );
    OpenApiBuilder::new()
        .info(info)
        .paths(PathsBuilder::new())
        .components(Some(
            // Parameters refer to these, and only bodies bring theirs along.
            ComponentsBuilder::new()
                .schema_from::<ArchiveKind>()
                .schema_from::<ImageName>()
                .schema_from::<KernelName>()
                .schema_from::<OperationId>()
                .schema_from::<VmReference>()
                .schema_from::<WaitFor>()
                .build(),
        ))
        .build()
}

/// The document as served and committed.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: OnceLock<OpenApi> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = super::routes().into_openapi();
        let always = Always::responses();
        for (path, item) in &mut document.paths.paths {
            let needs_version = path != path::DAEMON;
            for operation in operations(item) {
                complete(operation, needs_version, &always);
            }
        }
        document
    })
}

/// The document as text: what is committed as `schema/openapi.json`.
pub fn text() -> String {
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.delete,
        &mut item.put,
    ]
    .into_iter()
    .filter_map(Option::as_mut)
}

fn complete(
    operation: &mut Operation,
    needs_version: bool,
    always: &BTreeMap<String, RefOr<Response>>,
) {
    for (status, response) in always {
        operation
            .responses
            .responses
            .entry(status.clone())
            .or_insert_with(|| response.clone());
    }
    if needs_version {
        operation.parameters.get_or_insert_default().push(
            ParameterBuilder::new()
                .name(VERSION_HEADER)
                .parameter_in(ParameterIn::Header)
                .required(Required::True)
                .description(Some("Version of the API that the client speaks."))
                .schema(Some(
                    ObjectBuilder::new()
                        .schema_type(Type::Integer)
                        .enum_values(Some([VERSION])),
                ))
                .build()
                .into(),
        );
    }
}
