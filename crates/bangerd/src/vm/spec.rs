//! What was asked for, what became of it, and the limits checked before work starts.

use std::path::PathBuf;

use banger_protocol::api::image::ImageConfig;
use banger_protocol::api::vm::{InitChoice, MainProcess, MainSpec, Timing};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{KernelName, VmName};
use banger_vmm::MachineRecord;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::agent::Hello;

/// Least guest memory: below it the kernel with its initramfs does not come up.
pub const MIN_MEMORY_MIB: u64 = 64;
/// Least writable disk: an ext4 with a journal and room for a few files.
pub const MIN_DISK_MIB: u64 = 16;
/// Most writable disk: the largest ext4 with 4 KiB blocks and 32-bit block groups that every
/// supported guest kernel mounts.
pub const MAX_DISK_MIB: u64 = 16 << 20;

/// A request to create a VM, with everything resolved to files on this host.
#[derive(Clone, Debug)]
pub struct NewVm {
    /// By default a readable name is made.
    pub name: Option<VmName>,
    pub image: ImageSource,
    pub kernel: KernelSource,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub init: Option<InitChoice>,
    pub env: Vec<ByteString>,
    pub user: Option<String>,
    pub workdir: Option<ByteString>,
    pub main: Option<MainSpec>,
    pub ephemeral: bool,
    pub no_start: bool,
}

/// The image of a new VM.
#[derive(Clone, Debug)]
pub struct ImageSource {
    pub name: String,
    pub digest: String,
    pub base_digest: String,
    /// The base file. World-readable, since the VMM reads it under a uid of its own.
    pub base: PathBuf,
    pub config: ImageConfig,
}

/// The kernel of a new VM.
#[derive(Clone, Debug)]
pub struct KernelSource {
    pub name: KernelName,
    /// SHA-256 of the kernel file, hexadecimal.
    pub sha256: String,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// What was asked for; never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmSpec {
    pub image: String,
    pub image_digest: String,
    pub base_digest: String,
    pub image_config: ImageConfig,
    pub kernel: KernelName,
    pub kernel_sha256: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub init: Option<InitChoice>,
    pub env: Vec<ByteString>,
    pub user: Option<String>,
    pub workdir: Option<ByteString>,
    /// The persistent `main`, where the VM has one; see [`super::main_process::main_command`].
    pub main: Option<MainSpec>,
    pub ephemeral: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub failure: Option<ApiError>,
    pub note: Option<String>,
    /// The init of the first boot.
    pub init: Option<InitChoice>,
    pub main: Option<MainProcess>,
    /// When its agent last became ready; `None` means never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// The machine, from its launch until its resources are released.
    pub machine: Option<MachineRecord>,
    /// The host's boot in which it was launched.
    pub host_boot: Option<String>,
    /// Names the guest's boot; another one means that its processes are gone.
    pub boot: Option<Boot>,
    pub timings: Vec<Timing>,
}

/// The guest's boot as its agent described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub id: String,
    pub agent_generation: u32,
}

impl Boot {
    pub fn of(hello: Hello) -> Boot {
        Boot {
            id: hello
                .boot_id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            agent_generation: u32::from(hello.generation),
        }
    }
}

/// What this host and its configuration allow.
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    pub max_vcpus: u32,
    pub max_memory_mib: u64,
}

/// Checks what the types cannot.
///
/// # Errors
/// `invalid_argument`, naming the value, the range and the flag.
pub fn check(new: &NewVm, limits: HostLimits) -> Result<(), ApiError> {
    let invalid = |message: String, hint: &str| {
        Err(ApiError::new(ErrorKind::InvalidArgument, message).hint(hint))
    };
    if new.vcpus < 1 || new.vcpus > limits.max_vcpus {
        return invalid(
            format!(
                "{} virtual processors is not possible: this host allows 1 to {}",
                new.vcpus, limits.max_vcpus
            ),
            "choose another number with --vcpu",
        );
    }
    if new.memory_mib < MIN_MEMORY_MIB || new.memory_mib > limits.max_memory_mib {
        return invalid(
            format!(
                "{} MiB of memory is not possible: this host allows {MIN_MEMORY_MIB} to {} MiB",
                new.memory_mib, limits.max_memory_mib
            ),
            "choose another size with --memory",
        );
    }
    if new.disk_mib < MIN_DISK_MIB || new.disk_mib > MAX_DISK_MIB {
        return invalid(
            format!(
                "a disk of {} MiB is not possible: choose {MIN_DISK_MIB} MiB to {} TiB",
                new.disk_mib,
                MAX_DISK_MIB >> 20
            ),
            "choose another size with --disk-size",
        );
    }
    check_process(&[], &new.env, new.user.as_deref(), new.workdir.as_ref())?;
    if let Some(main) = &new.main {
        check_process(&main.command, &[], None, None)?;
    }
    Ok(())
}

/// Checks what would run in a guest: a NUL ends a string there, and a variable needs a name.
///
/// # Errors
/// `invalid_argument`.
pub fn check_process(
    command: &[ByteString],
    env: &[ByteString],
    user: Option<&str>,
    workdir: Option<&ByteString>,
) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorKind::InvalidArgument, message));
    let shown =
        |bytes: &[u8]| -> String { String::from_utf8_lossy(bytes).chars().take(80).collect() };
    for argument in command {
        if argument.0.contains(&0) {
            return invalid(format!(
                "the argument {:?} holds a NUL byte",
                shown(&argument.0)
            ));
        }
    }
    if command.first().is_some_and(|program| program.0.is_empty()) {
        return invalid("the command's program is empty".to_owned());
    }
    for variable in env {
        let named = variable.0.iter().position(|byte| *byte == b'=');
        if !matches!(named, Some(1..)) || variable.0.contains(&0) {
            return invalid(format!(
                "{:?} is not an environment variable: write NAME=value, without NUL bytes",
                shown(&variable.0)
            ));
        }
    }
    if let Some(user) = user
        && (user.is_empty() || user.contains('\0') || user.len() > 256)
    {
        return invalid(format!(
            "{:?} is not a user: write a name or number, and optionally ':' and a group",
            shown(user.as_bytes())
        ));
    }
    if let Some(workdir) = workdir
        && (!workdir.0.starts_with(b"/") || workdir.0.contains(&0) || workdir.0.len() > 4096)
    {
        return invalid(format!(
            "the working directory {:?} is not an absolute path",
            shown(&workdir.0)
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::random::hex12;
    use crate::store::vms::VmRow;
    use crate::vm::state::State;

    pub(crate) fn row(name: &str) -> VmRow {
        VmRow {
            id: hex12(),
            name: name.parse().unwrap(),
            state: State::Created,
            transition: 0,
            spec: VmSpec {
                image: "debian-12".to_owned(),
                image_digest: "sha256:1".to_owned(),
                base_digest: "b1".to_owned(),
                image_config: ImageConfig::default(),
                kernel: "k-1".parse().unwrap(),
                kernel_sha256: "0".repeat(64),
                vcpus: 1,
                memory_mib: 256,
                disk_mib: 64,
                init: None,
                env: Vec::new(),
                user: None,
                workdir: None,
                main: None,
                ephemeral: false,
                created_at: OffsetDateTime::UNIX_EPOCH,
            },
            observed: Observed::default(),
        }
    }

    pub(crate) fn new_vm() -> NewVm {
        NewVm {
            name: None,
            image: ImageSource {
                name: "debian-12".to_owned(),
                digest: "sha256:1".to_owned(),
                base_digest: "b1".to_owned(),
                base: PathBuf::from("/nonexistent/base"),
                config: ImageConfig::default(),
            },
            kernel: KernelSource {
                name: "k-1".parse().unwrap(),
                sha256: "0".repeat(64),
                kernel: PathBuf::from("/nonexistent/kernel"),
                initramfs: PathBuf::from("/nonexistent/initramfs"),
            },
            vcpus: 1,
            memory_mib: 256,
            disk_mib: 64,
            init: None,
            env: Vec::new(),
            user: None,
            workdir: None,
            main: None,
            ephemeral: false,
            no_start: false,
        }
    }

    #[test]
    fn limits() {
        let limits = HostLimits {
            max_vcpus: 4,
            max_memory_mib: 1024,
        };
        let good: [fn(&mut NewVm); 5] = [
            |_| {},
            |vm| vm.vcpus = 4,
            |vm| vm.memory_mib = 1024,
            |vm| vm.disk_mib = MIN_DISK_MIB,
            |vm| vm.env = vec![ByteString(b"A=".to_vec()), ByteString(b"B=\xff".to_vec())],
        ];
        for (case, change) in good.into_iter().enumerate() {
            let mut vm = new_vm();
            change(&mut vm);
            assert_eq!(check(&vm, limits), Ok(()), "good case {case}");
        }
        type Case = (fn(&mut NewVm), &'static str);
        let bad: [Case; 12] = [
            (|vm| vm.vcpus = 0, "0 virtual processors"),
            (|vm| vm.vcpus = 5, "5 virtual processors"),
            (|vm| vm.memory_mib = 63, "63 MiB of memory"),
            (|vm| vm.memory_mib = 1025, "1025 MiB of memory"),
            (|vm| vm.disk_mib = 15, "a disk of 15 MiB"),
            (|vm| vm.disk_mib = u64::MAX, "a disk of"),
            (|vm| vm.env = vec![ByteString(b"A".to_vec())], "NAME=value"),
            (|vm| vm.env = vec![ByteString(b"=x".to_vec())], "NAME=value"),
            (
                |vm| vm.env = vec![ByteString(b"A=\0".to_vec())],
                "NAME=value",
            ),
            (|vm| vm.user = Some(String::new()), "not a user"),
            (
                |vm| vm.workdir = Some(ByteString(b"tmp".to_vec())),
                "absolute",
            ),
            (
                |vm| {
                    vm.main = Some(MainSpec {
                        command: vec![ByteString(b"a\0".to_vec())],
                    });
                },
                "NUL",
            ),
        ];
        for (change, text) in bad {
            let mut vm = new_vm();
            change(&mut vm);
            let error = check(&vm, limits).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.message.contains(text), "{}", error.message);
        }
    }
}
