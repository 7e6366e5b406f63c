//! VMs.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_protocol::api::operation::{Operation, OperationEvent, OperationKind, OperationResult};
use banger_protocol::api::vm::{
    CreateVm, LogQuery, OperationQuery, StopQuery, Timing, Vm, VmHealth, VmList, WaitQuery,
    WaitResult,
};
use banger_protocol::api::{NDJSON, path};
use banger_protocol::error::{ApiError, ErrorKind};

use super::Api;
use super::document::Octets;
use super::extract::{JsonBody, Parameters, Segments, VmReference};
use super::failure::{Failure, Guest, Lookup, Starting, VmLookup, WithBody};
use super::stream;
use crate::image::Wanted;
use crate::operation::Context;
use crate::services::Services;
use crate::vm::spec::NewVm;

/// Longest wait that a query may ask for.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Lists VMs, by name.
#[utoipa::path(
    get, path = path::VMS, tag = "vms", operation_id = "listVms",
    responses((status = 200, description = "The VMs.", body = VmList))
)]
pub async fn list(State(services): Api) -> Result<Response, Failure> {
    let body = services.vms.list()?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// Shows one VM.
#[utoipa::path(
    get, path = path::VM, tag = "vms", operation_id = "showVm",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id.")),
    responses((status = 200, description = "The VM.", body = Vm), VmLookup)
)]
pub async fn show(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
) -> Result<Json<Vm>, Failure> {
    Ok(Json(services.vms.show(vm.as_str()).await?))
}

/// Creates a VM, pulling image and kernel where they are not there, and starts it.
#[utoipa::path(
    post, path = path::VMS, tag = "vms", operation_id = "createVm",
    params(OperationQuery), request_body = CreateVm,
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        WithBody, Starting, Lookup
    )
)]
pub async fn create(
    State(services): Api,
    Parameters(query): Parameters<OperationQuery>,
    JsonBody(request): JsonBody<CreateVm>,
) -> Result<Response, Failure> {
    for (what, number) in [
        ("vcpus", request.vcpus.map(u64::from)),
        ("memory_mib", request.memory_mib),
        ("disk_mib", request.disk_mib),
    ] {
        if number == Some(0) {
            return Err(Failure::invalid(format!("{what} must be at least 1")));
        }
    }
    let image = request
        .image
        .clone()
        .unwrap_or_else(|| services.config.default_image.clone());
    // Before anything is pulled for a name that will not do.
    let wanted = Wanted::parse(&image, services.images.catalog())?;
    if let Some(kernel) = &request.kernel {
        services.kernels.check_known(kernel).await?;
    }
    if let Some(name) = &request.name
        && let Ok(taken) = services.vms.show(name.as_str()).await
        && taken.name == *name
    {
        return Err(ApiError::new(
            ErrorKind::AlreadyExists,
            format!("there is a VM {name} already"),
        )
        .hint(format!(
            "choose another name with --name, or remove it: banger vm delete {name}"
        ))
        .into());
    }
    let subject = request.name.as_ref().map_or(image, ToString::to_string);
    let shared = services.clone();
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::VmCreate,
        subject,
        |context| async move {
            let vm = create_vm(&shared, wanted, request, &context).await?;
            Ok(OperationResult::Vm { vm: Box::new(vm) })
        },
    )
}

async fn create_vm(
    services: &Services,
    wanted: Wanted,
    request: CreateVm,
    context: &Context,
) -> Result<Vm, ApiError> {
    let config = &services.config;
    let began = Instant::now();
    let image = services
        .images
        .ensure(wanted, request.credentials, context)
        .await?;
    let after_image = Instant::now();
    let kernel_name = request
        .kernel
        .or_else(|| image.record.kernel.clone())
        .unwrap_or_else(|| config.default_kernel.clone());
    let kernel = services.kernels.ensure(&kernel_name, context).await?;
    let after_kernel = Instant::now();
    let new = NewVm {
        name: request.name,
        image: image.source(),
        kernel,
        vcpus: request.vcpus.unwrap_or(config.vcpus),
        memory_mib: request.memory_mib.unwrap_or_else(|| config.memory.in_mib()),
        disk_mib: request
            .disk_mib
            .unwrap_or_else(|| config.disk_size.in_mib()),
        init: request.init,
        env: request.env,
        user: request.user,
        workdir: request.workdir,
        main: request.main,
        ephemeral: request.ephemeral,
        no_start: request.no_start,
    };
    let mut vm = services.vms.create(new, context).await?;
    let phase = |phase: &str, duration: Duration| Timing {
        phase: phase.to_owned(),
        ms: duration.as_secs_f64() * 1000.0,
    };
    vm.timings.splice(
        0..0,
        [
            phase("image", after_image - began),
            phase("kernel", after_kernel - after_image),
        ],
    );
    Ok(vm)
}

/// Starts a VM that does not run.
#[utoipa::path(
    post, path = path::VM_START, tag = "vms", operation_id = "startVm",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id."), OperationQuery),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        VmLookup, Starting
    )
)]
pub async fn start(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    Parameters(query): Parameters<OperationQuery>,
) -> Result<Response, Failure> {
    let (vms, name) = resolved(&services, &vm).await?;
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::VmStart,
        name.clone(),
        |context| async move {
            let vm = vms.start(&name, &context).await?;
            Ok(OperationResult::Vm { vm: Box::new(vm) })
        },
    )
}

/// Stops a VM: its guest switches itself off, or is switched off after a while.
#[utoipa::path(
    post, path = path::VM_STOP, tag = "vms", operation_id = "stopVm",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id."), StopQuery),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        VmLookup, Starting
    )
)]
pub async fn stop(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    Parameters(query): Parameters<StopQuery>,
) -> Result<Response, Failure> {
    let timeout = bounded_wait(query.timeout_ms)?.map(Duration::from_millis);
    let (vms, name) = resolved(&services, &vm).await?;
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::VmStop,
        name.clone(),
        |context| async move {
            let vm = vms.stop(&name, timeout, &context).await?;
            Ok(OperationResult::Vm { vm: Box::new(vm) })
        },
    )
}

/// Deletes a VM with everything it wrote. A running one is stopped first.
#[utoipa::path(
    delete, path = path::VM, tag = "vms", operation_id = "deleteVm",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id."), OperationQuery),
    responses(
        (status = 200, description = "Events, one a line.", body = OperationEvent, content_type = NDJSON),
        (status = 202, description = "Detached: the operation.", body = Operation),
        VmLookup, Starting
    )
)]
pub async fn delete(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    Parameters(query): Parameters<OperationQuery>,
) -> Result<Response, Failure> {
    let (vms, name) = resolved(&services, &vm).await?;
    stream::run(
        &services.operations,
        query.detach,
        OperationKind::VmDelete,
        name.clone(),
        |context| async move {
            vms.delete(&name, &context).await?;
            Ok(OperationResult::Deleted { name })
        },
    )
}

/// The VM's name, so that a wrong one is an error before an operation begins.
async fn resolved(
    services: &Services,
    vm: &VmReference,
) -> Result<(crate::vm::Vms, String), Failure> {
    let name = services.vms.show(vm.as_str()).await?.name.to_string();
    Ok((services.vms.clone(), name))
}

/// Asks the guest's agent whether it is well.
#[utoipa::path(
    get, path = path::VM_HEALTH, tag = "vms", operation_id = "vmHealth",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id.")),
    responses((status = 200, description = "How it is; an agent that does not answer is an answer, too.", body = VmHealth), VmLookup)
)]
pub async fn health(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
) -> Result<Json<VmHealth>, Failure> {
    Ok(Json(services.vms.health(vm.as_str()).await?))
}

/// Waits for something to be so of a VM.
#[utoipa::path(
    get, path = path::VM_WAIT, tag = "vms", operation_id = "waitForVm",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id."), WaitQuery),
    responses((status = 200, description = "It is so.", body = WaitResult), VmLookup, Guest)
)]
pub async fn wait(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    Parameters(query): Parameters<WaitQuery>,
) -> Result<Json<WaitResult>, Failure> {
    bounded_wait(query.timeout_ms)?;
    Ok(Json(services.vms.wait(vm.as_str(), query).await?))
}

/// Streams the output of `main`, or the serial console.
#[utoipa::path(
    get, path = path::VM_LOGS, tag = "vms", operation_id = "vmLogs",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id."), LogQuery),
    responses(
        (status = 200, description = "The bytes as they were written.", body = Octets, content_type = "application/octet-stream"),
        VmLookup, Guest
    )
)]
pub async fn logs(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    Parameters(query): Parameters<LogQuery>,
) -> Result<Response, Failure> {
    let bytes = services.vms.logs(vm.as_str(), query).await?;
    Ok((
        [(CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(bytes),
    )
        .into_response())
}

fn bounded_wait(ms: Option<u64>) -> Result<Option<u64>, Failure> {
    match ms {
        Some(ms) if ms > MAX_WAIT_MS => Err(Failure::invalid(format!(
            "timeout_ms must be at most {MAX_WAIT_MS}"
        ))),
        other => Ok(other),
    }
}
