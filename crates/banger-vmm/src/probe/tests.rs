use super::*;
use crate::fake::{Call, FakeVmm, Fault};

fn rung(wish: Wish, device: &KvmDevice, verdict: Option<&Outcome>) -> Option<Accelerator> {
    match choose(wish, device, verdict) {
        Decision::Rung(rung) => {
            assert!(!rung.reason.is_empty());
            assert_eq!(
                rung.remedy.is_none(),
                rung.accelerator == Accelerator::Kvm || wish != Wish::Auto,
                "{rung:?}"
            );
            Some(rung.accelerator)
        }
        Decision::Probe => None,
    }
}

#[test]
fn the_ladder() {
    let broken = KvmDevice::Broken {
        reason: "x".to_owned(),
    };
    let boots = Outcome::Boots { ms: 1 };
    let hangs = Outcome::Hangs { after_ms: 1 };
    let ends = Outcome::Ends {
        reason: "x".to_owned(),
    };
    let refused = Outcome::Refused {
        reason: "x".to_owned(),
    };
    let (kvm, tcg) = (Some(Accelerator::Kvm), Some(Accelerator::Tcg));
    for (device, verdict, expected) in [
        (&KvmDevice::Absent, None, tcg),
        (&KvmDevice::Forbidden, None, tcg),
        (&broken, None, tcg),
        (&KvmDevice::Usable, None, None),
        (&KvmDevice::Usable, Some(&boots), kvm),
        (&KvmDevice::Usable, Some(&hangs), tcg),
        (&KvmDevice::Usable, Some(&ends), tcg),
        (&KvmDevice::Usable, Some(&refused), tcg),
        // A device that went away since counts more than an old verdict.
        (&KvmDevice::Absent, Some(&boots), tcg),
    ] {
        assert_eq!(
            rung(Wish::Auto, device, verdict),
            expected,
            "{device:?} {verdict:?}"
        );
        assert_eq!(rung(Wish::Only(Accelerator::Tcg), device, verdict), tcg);
        assert_eq!(rung(Wish::Only(Accelerator::Kvm), device, verdict), kvm);
    }
}

#[test]
fn a_vmm_that_may_not_use_the_device_gets_the_remedy_for_that() {
    let remedy = |reason: &str| {
        let refused = Outcome::Refused {
            reason: reason.to_owned(),
        };
        match choose(Wish::Auto, &KvmDevice::Usable, Some(&refused)) {
            Decision::Rung(rung) => rung.remedy.unwrap(),
            Decision::Probe => panic!("{reason}"),
        }
    };
    // QEMU's own words.
    let denied = "Could not access KVM kernel module: Permission denied";
    assert!(remedy(denied).contains("chgrp kvm"));
    assert!(!remedy("error: failed to set MSR 0x10a").contains("chgrp"));
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("vmlinux"), b"kernel").unwrap();
        std::fs::write(directory.path().join("initramfs"), b"initramfs").unwrap();
        Place(directory)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            kernel: self.0.path().join("vmlinux"),
            initramfs: self.0.path().join("initramfs"),
            key: Key {
                host_kernel: "h".to_owned(),
                vmm: "v".to_owned(),
                guest_kernel: "g".to_owned(),
            },
        }
    }

    fn prober(&self, vmm: &FakeVmm, alive: bool) -> Prober {
        let sign: SignOfLife = Arc::new(move |_machine| {
            Box::pin(async move {
                if !alive {
                    std::future::pending::<()>().await;
                }
                true
            })
        });
        let jail = JailConfig {
            uid: None,
            kvm_gid: None,
            cgroup: None,
            max_file_size: None,
        };
        Prober::new(
            Arc::new(vmm.clone()),
            sign,
            self.0.path().join("probe"),
            Duration::from_millis(20),
            jail,
        )
        .with_device(|| KvmDevice::Usable)
    }
}

fn vmm() -> FakeVmm {
    FakeVmm::new(|_, _| Box::pin(std::future::pending()))
}

#[tokio::test]
async fn a_kernel_that_answers_gets_kvm_and_is_asked_once() {
    let place = Place::new();
    let vmm = vmm();
    let prober = place.prober(&vmm, true);
    let candidate = place.candidate();
    assert_eq!(
        prober.rung(Wish::Auto, &candidate).await.accelerator,
        Accelerator::Kvm
    );
    vmm.set_fault(Call::Launch, Some(Fault::Fail("not again".to_owned())));
    assert_eq!(
        prober.rung(Wish::Auto, &candidate).await.accelerator,
        Accelerator::Kvm
    );
    assert!(!place.0.path().join("probe/machine").exists());
}

#[tokio::test]
async fn a_device_that_lies_ends_in_tcg_after_a_longer_second_try() {
    let place = Place::new();
    let prober = place.prober(&vmm(), false);
    let start = Instant::now();
    let rung = prober.rung(Wish::Auto, &place.candidate()).await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(rung.reason.contains("80 ms"), "{}", rung.reason);
    assert!(
        start.elapsed() >= Duration::from_millis(100),
        "both tries were made"
    );
    assert!(!place.0.path().join("probe/machine").exists());
    assert_eq!(prober.check(Wish::Auto).status, Status::Warn);
}

#[test]
fn doctor_names_where_machines_run_and_what_would_be_better() {
    let boots = Outcome::Boots { ms: 900 };
    let hangs = Outcome::Hangs { after_ms: 5000 };
    let (kvm, tcg) = (Wish::Only(Accelerator::Kvm), Wish::Only(Accelerator::Tcg));
    for (wish, device, verdict, status, words) in [
        (
            Wish::Auto,
            KvmDevice::Usable,
            None,
            Status::Pass,
            "the first VM shows",
        ),
        (
            Wish::Auto,
            KvmDevice::Usable,
            Some(&boots),
            Status::Pass,
            "on KVM: a probe booted",
        ),
        (
            Wish::Auto,
            KvmDevice::Usable,
            Some(&hangs),
            Status::Warn,
            "did not boot on it",
        ),
        (
            Wish::Auto,
            KvmDevice::Absent,
            None,
            Status::Warn,
            "no /dev/kvm",
        ),
        (
            kvm,
            KvmDevice::Usable,
            None,
            Status::Pass,
            "on KVM: the configuration says so",
        ),
        (
            kvm,
            KvmDevice::Usable,
            Some(&hangs),
            Status::Warn,
            "says KVM, and /dev/kvm answers, but",
        ),
        (
            kvm,
            KvmDevice::Forbidden,
            None,
            Status::Fail,
            "may not open /dev/kvm",
        ),
        (
            tcg,
            KvmDevice::Usable,
            Some(&boots),
            Status::Pass,
            "translated",
        ),
    ] {
        let check = judge(wish, &device, verdict);
        let said = check.details.join("\n");
        assert_eq!(check.status, status, "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(check.details.len() == 3, status != Status::Pass, "{said}");
    }
}

#[tokio::test]
async fn a_machine_that_cannot_start_ends_in_tcg() {
    let place = Place::new();
    let vmm = vmm();
    vmm.set_fault(
        Call::Launch,
        Some(Fault::Fail("no such machine".to_owned())),
    );
    let prober = place.prober(&vmm, true);
    let rung = prober.rung(Wish::Auto, &place.candidate()).await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(rung.reason.contains("no such machine"), "{}", rung.reason);
}

#[tokio::test]
async fn a_probe_that_was_not_possible_is_made_again() {
    let place = Place::new();
    let prober = place.prober(&vmm(), true);
    let mut candidate = place.candidate();
    candidate.initramfs = place.0.path().join("none");
    let rung = prober.rung(Wish::Auto, &candidate).await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(
        rung.reason.contains("cannot be prepared"),
        "{}",
        rung.reason
    );
    let rung = prober.rung(Wish::Auto, &place.candidate()).await;
    assert_eq!(rung.accelerator, Accelerator::Kvm, "{}", rung.reason);
}

#[tokio::test]
async fn a_vmm_that_never_starts_is_a_hang() {
    let place = Place::new();
    let vmm = vmm();
    vmm.set_fault(Call::Launch, Some(Fault::Stall));
    let prober = place.prober(&vmm, true);
    let rung = prober.rung(Wish::Auto, &place.candidate()).await;
    assert_eq!(rung.accelerator, Accelerator::Tcg);
    assert!(rung.reason.contains("80 ms"), "{}", rung.reason);
}
