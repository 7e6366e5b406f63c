//! The parts of the real daemon: QEMU, this host's directories and numbers.

use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use banger_vmm::Vmm;
use sha2::{Digest, Sha256};

use crate::agent::AgentSettings;
use crate::config::{Config, UidRange};
use crate::vm::Settings;
use crate::vm::spec::HostLimits;

/// How often an idle guest is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long an ephemeral VM waits for the client that will start its `main`.
const MAIN_GRACE: Duration = Duration::from_secs(60);
/// User ids of one daemon, where the range has room for several.
const UID_BLOCK: u32 = 1 << 16;

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
