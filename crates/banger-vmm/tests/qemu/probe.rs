//! The KVM probe, with a real VMM that really does or does not come up.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use banger_vmm::probe::device::KvmDevice;
use banger_vmm::probe::{Candidate, Key, Outcome, Prober, SignOfLife, Wish};
use banger_vmm::{
    Accelerator, Capabilities, JailConfig, Machine, MachineConfig, MachineRecord, Vmm, VmmError,
    jail_path,
};
use futures_util::future::{BoxFuture, FutureExt};

use crate::guest::{Deed, print};
use crate::place::{Daemon, Place, console_shows, driver, identity};

/// QEMU that translates when it is told to use KVM, so that the probe has a machine on every
/// host; and counts.
#[derive(Clone)]
struct Translated {
    qemu: Arc<dyn Vmm>,
    launches: Arc<AtomicU32>,
}

impl Translated {
    fn new() -> Self {
        Self {
            qemu: Arc::new(driver()),
            launches: Arc::default(),
        }
    }

    fn launches(&self) -> u32 {
        self.launches.load(Ordering::Relaxed)
    }
}

impl Vmm for Translated {
    fn name(&self) -> &'static str {
        self.qemu.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.qemu.capabilities()
    }

    fn launch(
        &self,
        mut config: MachineConfig,
    ) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        assert_eq!(config.accelerator, Accelerator::Kvm);
        config.accelerator = Accelerator::Tcg;
        self.launches.fetch_add(1, Ordering::Relaxed);
        self.qemu.launch(config)
    }

    fn adopt(
        &self,
        record: MachineRecord,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        self.qemu.adopt(record)
    }
}

fn candidate(place: &Place, guest_kernel: &str) -> Candidate {
    Candidate {
        kernel: place.directory().join(jail_path::KERNEL),
        initramfs: place.directory().join(jail_path::INITRAMFS),
        key: Key {
            host_kernel: banger_host::kernel::release(),
            vmm: "test".to_owned(),
            guest_kernel: guest_kernel.to_owned(),
        },
    }
}

fn directory(place: &Place) -> PathBuf {
    place.directory().join("probe")
}

fn prober(place: &Place, vmm: Arc<dyn Vmm>, bound: Duration) -> Prober {
    // These guests have no agent: the console is where they can answer.
    let sign: SignOfLife = Arc::new(|machine| {
        async move {
            console_shows(&machine, "alive").await;
            true
        }
        .boxed()
    });
    let jail = JailConfig {
        uid: None,
        kvm_gid: None,
        cgroup: None,
        max_file_size: None,
    };
    Prober::new(vmm, sign, directory(place), bound, jail)
}

fn nothing_is_left(place: &Place) {
    let names: Vec<_> = std::fs::read_dir(directory(place))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["verdicts.json"]);
    let machine = directory(place).join("machine");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let cwd = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        assert!(!cwd.starts_with(&machine), "{process:?}");
    }
}

pub async fn a_kernel_that_answers_gets_kvm() {
    let place = Place::new(&[print("alive\n")]);
    let vmm = Translated::new();
    let prober = prober(&place, Arc::new(vmm.clone()), Duration::from_secs(10))
        .with_device(|| KvmDevice::Usable);
    let candidate = candidate(&place, "good");
    for _ in 0..2 {
        let rung = prober.rung(Wish::Auto, &candidate).await;
        assert_eq!(rung.accelerator, Accelerator::Kvm, "{}", rung.reason);
    }
    assert_eq!(vmm.launches(), 1);
    nothing_is_left(&place);
}

pub async fn a_kernel_that_never_boots_is_found_out_once() {
    const BOUND: Duration = Duration::from_millis(400);
    let place = Place::new(&[print("Booting the kernel.\n")]);
    let vmm = Translated::new();
    let ask = |kernel: &'static str| {
        // Each time another prober, as after a restart of the daemon.
        let prober = prober(&place, Arc::new(vmm.clone()), BOUND).with_device(|| KvmDevice::Usable);
        let candidate = candidate(&place, kernel);
        async move { prober.rung(Wish::Auto, &candidate).await }
    };
    let start = Instant::now();
    let rung = ask("bad").await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(
        rung.reason.contains("did not boot on it within 1600 ms"),
        "{}",
        rung.reason
    );
    assert_eq!(vmm.launches(), 2, "the second try is the longer one");
    assert!(start.elapsed() >= BOUND * 5);
    assert!(start.elapsed() < Duration::from_secs(20));

    assert_eq!(ask("bad").await, rung);
    assert_eq!(vmm.launches(), 2, "it is remembered");
    nothing_is_left(&place);

    // It is this kernel's verdict and not the next one's.
    place.write(
        jail_path::KERNEL,
        &crate::guest::kernel(&[print("Kernel panic - not syncing: x\n"), Deed::Reset]),
    );
    let rung = ask("worse").await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(
        rung.reason.contains("Kernel panic - not syncing: x")
            || rung.reason.contains("did not boot"),
        "{}",
        rung.reason
    );
    assert!(vmm.launches() > 2);
}

/// Its daemon was killed: the machine it leaves would run for ever, on a device where nothing boots.
pub async fn what_a_cut_off_probe_left_is_ended_by_the_next() {
    let place = Place::new(&[print("alive\n")]);
    let vmm = Translated::new();
    let prober = prober(&place, Arc::new(vmm.clone()), Duration::from_secs(10))
        .with_device(|| KvmDevice::Usable);
    let machine = directory(&place).join("machine");
    std::fs::create_dir(directory(&place)).unwrap();
    std::fs::set_permissions(directory(&place), Permissions::from_mode(0o700)).unwrap();
    std::fs::create_dir(&machine).unwrap();
    for name in [jail_path::KERNEL, jail_path::INITRAMFS] {
        std::fs::copy(place.directory().join(name), machine.join(name)).unwrap();
    }
    let left = MachineConfig {
        directory: machine,
        ..place.config()
    };
    let record = Daemon::launch(&left, None).kill();
    assert!(identity(&record).is_alive().unwrap());
    let rung = prober.rung(Wish::Auto, &candidate(&place, "good")).await;
    assert_eq!(rung.accelerator, Accelerator::Kvm, "{}", rung.reason);
    assert!(!identity(&record).is_alive().unwrap());
    nothing_is_left(&place);
}

/// Whatever this host's `/dev/kvm` is worth: a verdict, in time, and nothing left.
pub async fn the_device_of_this_host_gives_a_verdict_in_time() {
    const BOUND: Duration = Duration::from_millis(500);
    // Never a sign of life, so the device has to be found wanting.
    let place = Place::new(&[print("Booting the kernel.\n")]);
    let prober = prober(&place, Arc::new(driver()), BOUND);
    let candidate = candidate(&place, "mute");
    let start = Instant::now();
    let rung = prober.rung(Wish::Auto, &candidate).await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    // Both bounds, and a VMM that has to be killed twice.
    assert!(start.elapsed() < Duration::from_secs(30));
    nothing_is_left(&place);
    let text = std::fs::read_to_string(directory(&place).join("verdicts.json")).unwrap();
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let outcome: Outcome = serde_json::from_value(entries[0].clone()).unwrap();
    assert!(!matches!(outcome, Outcome::Boots { .. }), "{outcome:?}");
    // Remembered: another probe would miss its kernel.
    std::fs::remove_file(&candidate.kernel).unwrap();
    assert_eq!(prober.rung(Wish::Auto, &candidate).await, rung);
}
