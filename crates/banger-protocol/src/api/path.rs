//! Paths of the API. `{…}` parts are percent-encoded names, ids or references.

pub const DAEMON: &str = "/v1/daemon";
pub const DAEMON_STOP: &str = "/v1/daemon/stop";
pub const DOCTOR: &str = "/v1/doctor";
pub const OPENAPI: &str = "/v1/openapi.json";

pub const VMS: &str = "/v1/vms";
pub const VM: &str = "/v1/vms/{vm}";
pub const VM_START: &str = "/v1/vms/{vm}/start";
pub const VM_STOP: &str = "/v1/vms/{vm}/stop";
pub const VM_HEALTH: &str = "/v1/vms/{vm}/health";
pub const VM_WAIT: &str = "/v1/vms/{vm}/wait";
pub const VM_LOGS: &str = "/v1/vms/{vm}/logs";
/// Upgrades to exec frames.
pub const VM_EXEC: &str = "/v1/vms/{vm}/exec";
pub const VM_EXECS: &str = "/v1/vms/{vm}/execs";
/// Upgrades to exec frames: joins a running exec again.
pub const VM_EXEC_ATTACH: &str = "/v1/vms/{vm}/execs/{exec}/attach";
/// Upgrades to exec frames: starts `main`, or joins it.
pub const VM_MAIN: &str = "/v1/vms/{vm}/main";

pub const IMAGES: &str = "/v1/images";
pub const IMAGE: &str = "/v1/images/{image}";
pub const IMAGE_PULL: &str = "/v1/images/pull";
/// The body is the archive.
pub const IMAGE_IMPORT: &str = "/v1/images/import";
pub const IMAGE_PRUNE: &str = "/v1/images/prune";

pub const KERNELS: &str = "/v1/kernels";
pub const KERNEL: &str = "/v1/kernels/{kernel}";
pub const KERNEL_PULL: &str = "/v1/kernels/pull";
/// The body is a tar archive of the directory or file.
pub const KERNEL_IMPORT: &str = "/v1/kernels/import";

pub const OPERATIONS: &str = "/v1/operations";
pub const OPERATION: &str = "/v1/operations/{operation}";
pub const OPERATION_EVENTS: &str = "/v1/operations/{operation}/events";
pub const OPERATION_CANCEL: &str = "/v1/operations/{operation}/cancel";

/// Fills the `{…}` parts of a path, in order, percent-encoding what is not unreserved.
pub fn fill(template: &str, parts: &[&str]) -> String {
    let mut parts = parts.iter();
    let mut path = String::with_capacity(template.len() + 16);
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        path.push_str(&rest[..start]);
        if let Some(part) = parts.next() {
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    path.push(char::from(byte));
                } else {
                    path.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        rest = rest[start..].split_once('}').map_or("", |(_, rest)| rest);
    }
    path.push_str(rest);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_encoded() {
        assert_eq!(fill(VM_EXEC, &["web"]), "/v1/vms/web/exec");
        assert_eq!(
            fill(VM_EXEC_ATTACH, &["web", "7"]),
            "/v1/vms/web/execs/7/attach"
        );
        assert_eq!(fill(IMAGE, &["a/b:c ?"]), "/v1/images/a%2Fb%3Ac%20%3F");
        assert_eq!(fill(VMS, &[]), "/v1/vms");
    }
}
