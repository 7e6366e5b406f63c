//! The parts of the real daemon: QEMU, this host's directories and numbers.

use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_host::layout::Layout;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::link::{HostOptions, Link};
use banger_vmm::jail::Launcher;
use banger_vmm::probe::{Candidate, Key, Prober, SignOfLife, Wish};
use banger_vmm::qemu::{Qemu, QemuConfig};
use banger_vmm::{Accelerator, JailConfig, Vmm};
use sha2::{Digest, Sha256};

use crate::agent::AgentSettings;
use crate::config::{AcceleratorChoice, Config, UidRange};
use crate::daemon::{self, Opened, Parts};
use crate::instance::instance;
use crate::kernel::Kernels;
use crate::vm::host::RealHost;
use crate::vm::spec::HostLimits;
use crate::vm::{Advisor, BootAdvice, KernelPin, Settings, VmDeps, Vms};

/// How often an idle guest is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long an ephemeral VM waits for the client that will start its `main`.
const MAIN_GRACE: Duration = Duration::from_secs(60);
/// Makes `bangerd` the launcher of a VMM.
pub const LAUNCH_ARGUMENT: &str = "launch";
/// User ids of one daemon, where the range has room for several.
const UID_BLOCK: u32 = 1 << 16;

/// QEMU on this host.
pub fn parts(layout: &Layout, config: &Config) -> Parts {
    let root = rustix::process::geteuid().is_root();
    let instance = instance(&layout.state);
    let qemu = Arc::new(Qemu::new(QemuConfig {
        binary: daemon::qemu(config),
        console_cap: config.console_log_size.0,
        ..QemuConfig::new(launcher())
    }));
    let mut settings = settings(config, &instance, &*qemu, root);
    let prober = Arc::new(Prober::new(
        qemu.clone(),
        sign_of_life(),
        layout.state.join("probe"),
        config.probe_timeout,
        JailConfig {
            uid: settings.uids.as_mut().map(take_last),
            kvm_gid: settings.kvm_gid,
            cgroup: None,
            max_file_size: None,
        },
    ));
    let wish = wish(config.accelerator);
    let doctor = prober.clone();
    Parts {
        agent: daemon::agent_program(),
        driver: Box::new(move || {
            let check = doctor.check(wish);
            Box::pin(async move { vec![check] })
        }),
        open_vms: Box::new(move |opened| Box::pin(open_vms(opened, qemu, prober, wish, settings))),
    }
}

async fn open_vms(
    opened: Opened,
    qemu: Arc<Qemu>,
    prober: Arc<Prober>,
    wish: Wish,
    settings: Settings,
) -> Result<Vms, ApiError> {
    let host = RealHost::new(opened.vms.clone()).map_err(|error| {
        ApiError::new(
            ErrorKind::DaemonUnavailable,
            format!("cannot use {}: {error}", opened.vms.display()),
        )
    })?;
    let advisor = advisor(opened.kernels, qemu.clone(), prober, wish);
    Vms::open(VmDeps::new(
        opened.store,
        qemu,
        host,
        advisor,
        opened.vms,
        settings,
    ))
    .await
}

/// Asks for today's agent, and where that kernel runs.
fn advisor(kernels: Kernels, qemu: Arc<Qemu>, prober: Arc<Prober>, wish: Wish) -> Advisor {
    Arc::new(move |pin: KernelPin| {
        let (kernels, qemu, prober) = (kernels.clone(), qemu.clone(), prober.clone());
        Box::pin(async move {
            let initramfs = kernels.initramfs(&pin.name, &pin.sha256).await?;
            let Ok(binary) = qemu.binary().await else {
                // The launch tells what is wrong with it, better than a probe could.
                return Ok(BootAdvice {
                    accelerator: Accelerator::Tcg,
                    initramfs,
                });
            };
            let candidate = Candidate {
                kernel: pin.kernel,
                initramfs: initramfs.clone().unwrap_or(pin.initramfs),
                key: Key {
                    host_kernel: banger_host::kernel::release(),
                    vmm: binary.version.clone(),
                    guest_kernel: pin.sha256,
                },
            };
            let rung = prober.rung(wish, &candidate).await;
            tracing::debug!(?rung, "accelerator");
            Ok(BootAdvice {
                accelerator: rung.accelerator,
                initramfs,
            })
        })
    })
}

/// The agent's hello: whoever can answer a nonce has booted.
fn sign_of_life() -> SignOfLife {
    Arc::new(|machine| {
        Box::pin(async move {
            let Ok(pipe) = machine.connect(banger_protocol::agent::VSOCK_PORT).await else {
                return false;
            };
            match Link::connect(pipe, HostOptions::fresh()).await {
                Ok((link, _)) => {
                    link.close();
                    true
                }
                Err(_) => false,
            }
        })
    })
}

/// This very program, also after its file was replaced.
fn launcher() -> Launcher {
    Launcher {
        program: PathBuf::from("/proc/self/exe"),
        args: vec![LAUNCH_ARGUMENT.to_owned()],
    }
}

fn wish(choice: AcceleratorChoice) -> Wish {
    match choice {
        AcceleratorChoice::Auto => Wish::Auto,
        AcceleratorChoice::Kvm => Wish::Only(Accelerator::Kvm),
        AcceleratorChoice::Tcg => Wish::Only(Accelerator::Tcg),
    }
}

/// The probe's machine runs beside VMs, and shares its user id with none.
fn take_last(range: &mut RangeInclusive<u32>) -> u32 {
    let last = *range.end();
    *range = *range.start()..=last.saturating_sub(1);
    last
}

/// The numbers VMs are made with.
pub fn settings(config: &Config, instance: &str, vmm: &dyn Vmm, root: bool) -> Settings {
    Settings {
        instance: instance.to_owned(),
        limits: limits(vmm),
        uids: root.then(|| uids(config.vm_uids, instance)),
        kvm_gid: std::fs::metadata("/dev/kvm")
            .ok()
            .map(|metadata| metadata.gid()),
        cgroups: true,
        boot_timeout: config.boot_timeout,
        stop_timeout: config.stop_timeout,
        agent: AgentSettings {
            answer: config.agent_timeout,
            heartbeat: HEARTBEAT,
        },
        main_log_bound: config.main_log_size.0,
        main_grace: MAIN_GRACE,
    }
}

fn limits(vmm: &dyn Vmm) -> HostLimits {
    let cpus = std::thread::available_parallelism()
        .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    let memory = rustix::system::sysinfo();
    let bytes = u128::from(memory.totalram) * u128::from(memory.mem_unit);
    HostLimits {
        max_vcpus: cpus.min(vmm.capabilities().max_vcpus),
        max_memory_mib: u64::try_from(bytes >> 20).unwrap_or(u64::MAX),
    }
}

/// Daemons on one host must not give two VMs one id: each takes the block that its name says.
fn uids(range: UidRange, instance: &str) -> RangeInclusive<u32> {
    let blocks = (range.last - range.first) / UID_BLOCK;
    if blocks < 2 {
        return range.first..=range.last;
    }
    let digest = Sha256::digest(instance.as_bytes());
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let first = range.first + number % blocks * UID_BLOCK;
    first..=first + (UID_BLOCK - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_take_different_blocks_of_the_range() {
        let range = Config::default().vm_uids;
        let first = uids(range, "0a1b2c3d");
        let second = uids(range, "0a1b2c3e");
        assert_ne!(first, second);
        for block in [first, second] {
            assert_eq!(block.end() - block.start(), UID_BLOCK - 1);
            assert!(range.first <= *block.start() && *block.end() <= range.last);
        }
        let small = UidRange {
            first: 5000,
            last: 5999,
        };
        assert_eq!(uids(small, "0a1b2c3d"), 5000..=5999);
    }

    #[test]
    fn the_host_has_processors_and_memory() {
        let vmm = banger_vmm::fake::FakeVmm::new(|_, _| Box::pin(async {}));
        let limits = limits(&vmm);
        assert!(limits.max_vcpus >= 1 && limits.max_memory_mib >= 64);
    }
}
