//! Exec and main: connections that become a process's.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_protocol::api::exec::{ExecList, ExecRequest};
use banger_protocol::api::path;

use super::Api;
use super::extract::{JsonBody, Segments, VmReference};
use super::failure::{Failure, Guest, Upgrading, VmLookup, WithBody};
use super::upgrade::ExecUpgrade;

/// Runs a process in the guest and joins the connection to it. A client that hangs up ends it.
#[utoipa::path(
    post, path = path::VM_EXEC, tag = "exec", operation_id = "exec",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id.")),
    request_body = ExecRequest,
    responses(
        (status = 101, description = "The connection carries exec frames.", headers(
            ("banger-agent-generation" = u32, description = "Generation of the agent that answers.")
        )),
        Upgrading, WithBody, VmLookup, Guest
    )
)]
pub async fn exec(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    upgrade: ExecUpgrade,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, Failure> {
    let guest = services.vms.exec(vm.as_str(), request).await?;
    Ok(upgrade.join(guest))
}

/// Lists the processes of exec that the guest's agent knows.
#[utoipa::path(
    get, path = path::VM_EXECS, tag = "exec", operation_id = "listExecs",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id.")),
    responses((status = 200, description = "The processes.", body = ExecList), VmLookup, Guest)
)]
pub async fn list(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
) -> Result<Json<ExecList>, Failure> {
    Ok(Json(ExecList {
        execs: services.vms.execs(vm.as_str()).await?,
    }))
}

/// Joins the connection to a process of exec again.
#[utoipa::path(
    post, path = path::VM_EXEC_ATTACH, tag = "exec", operation_id = "attachExec",
    params(
        ("vm" = VmReference, Path, description = "Name, id or beginning of the id."),
        ("exec" = u64, Path, description = "Id of the process.")
    ),
    responses(
        (status = 101, description = "The connection carries exec frames.", headers(
            ("banger-agent-generation" = u32, description = "Generation of the agent that answers.")
        )),
        Upgrading, VmLookup, Guest
    )
)]
pub async fn attach(
    State(services): Api,
    Segments((vm, exec)): Segments<(VmReference, u64)>,
    upgrade: ExecUpgrade,
) -> Result<Response, Failure> {
    let guest = services.vms.exec_attach(vm.as_str(), exec).await?;
    Ok(upgrade.join(guest))
}

/// Starts the VM's `main`, or joins the connection to it where it runs. A client that hangs up ends
/// nothing.
#[utoipa::path(
    post, path = path::VM_MAIN, tag = "exec", operation_id = "main",
    params(("vm" = VmReference, Path, description = "Name, id or beginning of the id.")),
    request_body = ExecRequest,
    responses(
        (status = 101, description = "The connection carries exec frames.", headers(
            ("banger-agent-generation" = u32, description = "Generation of the agent that answers.")
        )),
        Upgrading, WithBody, VmLookup, Guest
    )
)]
pub async fn main(
    State(services): Api,
    Segments(vm): Segments<VmReference>,
    upgrade: ExecUpgrade,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, Failure> {
    let guest = services.vms.main(vm.as_str(), request).await?;
    Ok(upgrade.join(guest))
}
