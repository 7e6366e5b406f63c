//! Every step of acquiring and releasing goes wrong once, in every way, and the daemon dies at
//! every step: afterwards nothing remains that should not, and the VM can be started or deleted.

use std::sync::Arc;
use std::time::Duration;

use crate::vm_support::host::Trouble;
use crate::vm_support::{World, create, have_mke2fs, names, until_state};
use banger_protocol::api::exec::ExecRequest;
use banger_protocol::api::vm::VmState;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_vmm::fake::{Call, Fault};
use bangerd::operation::Context;
use bangerd::vm::Vms;

fn context() -> Context {
    Context::detached()
}

/// Does something with a step of it going wrong. `None` where there was no such step, else the
/// daemon's VMs afterwards (a new daemon's where the old one died) and what was answered.
async fn troubled<F, T>(
    world: &World,
    vms: Vms,
    step: usize,
    trouble: Trouble,
    work: impl FnOnce(Vms) -> F,
) -> Option<(Vms, Option<Result<T, ApiError>>)>
where
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
    T: Send + 'static,
{
    world.host.set(Some((step, trouble)));
    let mut working = tokio::spawn(work(vms.clone()));
    let outcome = tokio::select! {
        outcome = &mut working => Some(outcome.unwrap()),
        () = world.host.crashed.notified() => None,
    };
    let happened = world.host.steps() > step;
    world.host.set(None);
    let vms = if outcome.is_none() {
        working.abort();
        let _ = working.await;
        drop(vms);
        world.open().await
    } else {
        vms
    };
    happened.then_some((vms, outcome))
}

/// What a VM has that never was ready.
const PINS: [&str; 3] = ["base", "initramfs", "kernel"];

#[tokio::test]
async fn creating_fails_at_every_step() {
    if !have_mke2fs() {
        return;
    }
    for trouble in Trouble::ALL {
        for step in 0.. {
            let world = World::new();
            let vms = world.open().await;
            let new = world.new_vm("web");
            let work = |vms: Vms| async move { create(&vms, new).await };
            let Some((vms, outcome)) = troubled(&world, vms, step, trouble, work).await else {
                assert!(step >= 4, "only {step} steps");
                break;
            };
            let what = format!("{trouble:?} at step {step}");
            if let Some(outcome) = outcome {
                let error = outcome.expect_err(&what);
                assert!(error.message.contains("trouble"), "{what}: {error}");
            }
            match vms.show("web").await {
                // The very first resource was not there: there never was a VM.
                Err(error) => {
                    assert_eq!((error.kind, step), (ErrorKind::NotFound, 0), "{what}");
                    world.assert_empty();
                    create(&vms, world.new_vm("web")).await.expect(&what);
                }
                Ok(vm) => {
                    assert_eq!(vm.state, VmState::Failed, "{what}");
                    assert!(vm.failure.is_some(), "{what}");
                    assert_eq!(world.vmm.running(), Vec::<String>::new(), "{what}");
                    let held = world.store().resources().unwrap();
                    let kinds: Vec<&str> = held.iter().map(|resource| resource.kind()).collect();
                    assert_eq!(kinds, ["directory"], "{what}");
                    let directory = world.vms_directory().join(vm.id.as_str());
                    assert_eq!(names(&directory), PINS, "{what}");
                    let started = vms.start("web", &context()).await.expect(&what);
                    assert_eq!(started.state, VmState::Running, "{what}");
                }
            }
            vms.delete("web", &context()).await.expect(&what);
            world.assert_empty();
        }
    }
}

#[tokio::test]
async fn what_can_be_neither_created_nor_undone_is_listed() {
    let world = World::new();
    let vms = world.open().await;
    world.host.set_from(0, Trouble::FailsAfter);
    let error = create(&vms, world.new_vm("web")).await.unwrap_err();
    assert!(error.message.contains("trouble at step 0"), "{error}");
    let vm = vms.show("web").await.unwrap();
    assert_eq!(vm.state, VmState::Failed);
    let hint = vm.failure.unwrap().hint;
    assert_eq!(hint.as_deref(), Some("banger vm delete web"));
    vms.delete("web", &context()).await.unwrap_err();
    world.host.set(None);
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn starting_again_fails_at_every_step_and_the_disk_stays() {
    if !have_mke2fs() {
        return;
    }
    for trouble in Trouble::ALL {
        for step in 0.. {
            let world = World::new();
            let vms = world.open().await;
            let id = create(&vms, world.new_vm("web")).await.unwrap().id;
            vms.stop("web", None, &context()).await.unwrap();
            let upper = world.vms_directory().join(id.as_str()).join("upper");
            std::fs::write(&upper, b"precious").unwrap();
            let work = |vms: Vms| async move { vms.start("web", &Context::detached()).await };
            let Some((vms, _)) = troubled(&world, vms, step, trouble, work).await else {
                assert!(step >= 2, "only {step} steps");
                break;
            };
            let what = format!("{trouble:?} at step {step}");
            assert_eq!(
                vms.show("web").await.unwrap().state,
                VmState::Failed,
                "{what}"
            );
            assert_eq!(std::fs::read(&upper).unwrap(), b"precious", "{what}");
            let directory = upper.parent().unwrap();
            assert_eq!(
                names(directory),
                ["base", "initramfs", "kernel", "upper"],
                "{what}"
            );
            vms.start("web", &context()).await.expect(&what);
            vms.delete("web", &context()).await.expect(&what);
            world.assert_empty();
        }
    }
}

#[tokio::test]
async fn stopping_fails_at_every_step() {
    if !have_mke2fs() {
        return;
    }
    for trouble in Trouble::ALL {
        for step in 0.. {
            let world = World::new();
            let vms = world.open().await;
            let id = create(&vms, world.new_vm("web")).await.unwrap().id;
            let work = |vms: Vms| async move { vms.stop("web", None, &Context::detached()).await };
            let Some((vms, _)) = troubled(&world, vms, step, trouble, work).await else {
                assert!(step >= 2, "only {step} steps");
                break;
            };
            let what = format!("{trouble:?} at step {step}");
            assert_eq!(
                vms.show("web").await.unwrap().state,
                VmState::Stopped,
                "{what}"
            );
            assert_eq!(world.vmm.running(), Vec::<String>::new(), "{what}");
            // What was not released then is by the next stop or start.
            vms.stop("web", None, &context()).await.expect(&what);
            let directory = world.vms_directory().join(id.as_str());
            assert_eq!(
                names(&directory),
                ["base", "initramfs", "kernel", "upper"],
                "{what}"
            );
            vms.start("web", &context()).await.expect(&what);
            vms.delete("web", &context()).await.expect(&what);
            world.assert_empty();
        }
    }
}

#[tokio::test]
async fn deleting_fails_at_every_step() {
    if !have_mke2fs() {
        return;
    }
    for running in [true, false] {
        for trouble in Trouble::ALL {
            for step in 0.. {
                let world = World::new();
                let vms = world.open().await;
                create(&vms, world.new_vm("web")).await.unwrap();
                if !running {
                    vms.stop("web", None, &context()).await.unwrap();
                }
                let work = |vms: Vms| async move { vms.delete("web", &Context::detached()).await };
                let Some((vms, outcome)) = troubled(&world, vms, step, trouble, work).await else {
                    assert!(step >= 2, "only {step} steps");
                    break;
                };
                let what = format!("{trouble:?} at step {step}, running: {running}");
                match vms.show("web").await {
                    // The stop before it had the trouble, or the new daemon went on with it.
                    Err(_) => assert!(matches!(outcome, None | Some(Ok(()))), "{what}"),
                    Ok(vm) => {
                        let expected = if trouble.is_crash() {
                            // The daemon died in the stop that comes first.
                            VmState::Stopped
                        } else {
                            VmState::Failed
                        };
                        assert_eq!(vm.state, expected, "{what}");
                        vms.delete("web", &context()).await.expect(&what);
                    }
                }
                world.assert_empty();
            }
        }
    }
}

#[tokio::test]
async fn a_guest_reboots_with_trouble_at_every_step() {
    if !have_mke2fs() {
        return;
    }
    for trouble in [Trouble::FailsBefore, Trouble::FailsAfter] {
        for step in 0.. {
            let world = World::new();
            let vms = world.open().await;
            let id = create(&vms, world.new_vm("web")).await.unwrap().id;
            // What cannot be released once cannot be released the next time either.
            world.host.set_from(step, trouble);
            world.guests.of(id.as_str()).reboot();
            let vm = wait_until_over(&vms, "web").await;
            let happened = world.host.steps() > step;
            world.host.set(None);
            let what = format!("{trouble:?} from step {step}");
            if !happened {
                assert_eq!(vm.state, VmState::Running, "{what}");
                assert!(step >= 2, "only {step} steps");
                break;
            }
            assert_eq!(vm.state, VmState::Failed, "{what}");
            assert!(vm.failure.is_some(), "{what}");
            vms.start("web", &context()).await.expect(&what);
            assert_eq!(vms.show("web").await.unwrap().state, VmState::Running);
            vms.delete("web", &context()).await.expect(&what);
            world.assert_empty();
        }
    }
}

/// The VM once its guest has rebooted: ready again, or failed.
async fn wait_until_over(vms: &Vms, vm: &str) -> banger_protocol::api::vm::Vm {
    let before = vms.show(vm).await.unwrap().started_at;
    for _ in 0..2000 {
        let shown = vms.show(vm).await.unwrap();
        let again = shown.state == VmState::Running && shown.started_at > before;
        if again || shown.state == VmState::Failed {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    vms.show(vm).await.unwrap()
}

#[tokio::test]
async fn a_daemon_dies_while_its_vmm_is_launched_or_its_guest_boots() {
    if !have_mke2fs() {
        return;
    }
    for call in [Call::Launch, Call::Connect] {
        let world = World::new();
        let vms = world.open().await;
        world.vmm.set_fault(call, Some(Fault::Stall));
        let (shared, new) = (vms.clone(), world.new_vm("web"));
        let creating = tokio::spawn(async move { create(&shared, new).await });
        let starting = async {
            while vms.show("web").await.is_err() {
                tokio::task::yield_now().await;
            }
            until_state(&vms, "web", VmState::Starting).await;
            let vm = vms.show("web").await.unwrap();
            let jail = world.vms_directory().join(vm.id.as_str()).join("jail");
            while !jail.exists() || (call == Call::Connect && world.vmm.running().is_empty()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        starting.await;
        creating.abort();
        let _ = creating.await;
        drop(vms);
        world.vmm.set_fault(call, None);
        let vms = world.open().await;
        let vm = vms.show("web").await.unwrap();
        assert_eq!(vm.state, VmState::Failed);
        assert!(vm.failure.unwrap().message.contains("bangerd ended"));
        assert_eq!(world.vmm.running(), Vec::<String>::new());
        vms.start("web", &context()).await.unwrap();
        vms.delete("web", &context()).await.unwrap();
        world.assert_empty();
    }
}

/// A VM that an earlier daemon left, and whose VMM says nothing to the next.
async fn world_with_a_silent_vmm(boot_timeout: Duration) -> World {
    let mut world = World::new();
    world.settings.agent.answer = Duration::from_millis(50);
    let vms = world.open().await;
    create(&vms, world.new_vm("web")).await.unwrap();
    drop(vms);
    world.settings.boot_timeout = boot_timeout;
    world.vmm.set_fault(Call::Adopt, Some(Fault::Stall));
    world
}

/// A busy host, or a debugger, may hold a VMM up when a daemon starts: no reason to kill it.
#[tokio::test]
async fn a_vmm_that_is_silent_when_a_daemon_comes_is_waited_for() {
    if !have_mke2fs() {
        return;
    }
    let world = world_with_a_silent_vmm(Duration::from_secs(20)).await;
    let machines = world.vmm.running();
    let vms = world.open().await;
    let vm = vms.show("web").await.unwrap();
    assert_eq!(vm.state, VmState::Unresponsive);
    assert!(vm.note.unwrap().contains("does not answer"));
    let refused = vms.exec("web", ExecRequest::default()).await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::GuestUnreachable);
    world.vmm.set_fault(Call::Adopt, None);
    until_state(&vms, "web", VmState::Running).await;
    assert_eq!(vms.show("web").await.unwrap().note, None);
    assert_eq!(world.vmm.running(), machines);
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

/// Whoever does not want it any more need not wait for it.
#[tokio::test]
async fn a_vmm_that_is_silent_when_a_daemon_comes_can_be_ended() {
    if !have_mke2fs() {
        return;
    }
    let world = world_with_a_silent_vmm(Duration::from_secs(3600)).await;
    let vms = world.open().await;
    let vm = vms.stop("web", None, &context()).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert!(vm.note.unwrap().contains("killed"));
    assert_eq!(world.vmm.running(), Vec::<String>::new());
    world.vmm.set_fault(Call::Adopt, None);
    vms.start("web", &context()).await.unwrap();
    drop(vms);
    world.vmm.set_fault(Call::Adopt, Some(Fault::Stall));
    let vms = world.open().await;
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

/// One that stays silent ends as a machine that failed, and nothing of it remains.
#[tokio::test]
async fn a_vmm_that_stays_silent_is_given_up() {
    if !have_mke2fs() {
        return;
    }
    let world = world_with_a_silent_vmm(Duration::from_millis(100)).await;
    let vms = world.open().await;
    until_state(&vms, "web", VmState::Failed).await;
    let failure = vms.show("web").await.unwrap().failure.unwrap();
    assert_eq!(failure.kind, ErrorKind::MachineDied);
    assert!(failure.message.contains("could not be taken over"));
    assert_eq!(world.vmm.running(), Vec::<String>::new());
    world.vmm.set_fault(Call::Adopt, None);
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn what_no_row_names_is_swept() {
    let world = World::new();
    let stray = world.vms_directory().join("0123456789ab");
    std::fs::create_dir_all(stray.join("jail")).unwrap();
    std::fs::write(stray.join("upper"), b"x").unwrap();
    let kept = world.vms_directory().join("not-an-id");
    std::fs::create_dir(&kept).unwrap();
    let vms = world.open().await;
    assert_eq!(world.directories(), ["not-an-id"]);
    drop(vms);
}

/// The uid of a VM is its own until it is deleted.
#[tokio::test]
async fn uids_are_claimed_and_given_back() {
    if !have_mke2fs() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root");
        return;
    }
    let mut world = World::new();
    world.settings.uids = Some(1_900_000_000..=1_900_000_001);
    let vms = Arc::new(world.open().await);
    create(&vms, world.new_vm("a")).await.unwrap();
    create(&vms, world.new_vm("b")).await.unwrap();
    let error = create(&vms, world.new_vm("c")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    let a = vms.show("a").await.unwrap().id;
    let owner = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        let path = world.vms_directory().join(a.as_str()).join(name);
        std::fs::metadata(path).unwrap().uid()
    };
    assert_eq!(
        (owner("jail"), owner("jail/upper")),
        (1_900_000_000, 1_900_000_000)
    );
    assert_eq!((owner("jail/base"), owner(".")), (0, 0));
    vms.stop("a", None, &context()).await.unwrap();
    // Stopped, it keeps it, since its disk is owned by it.
    vms.start("c", &context()).await.unwrap_err();
    vms.delete("a", &context()).await.unwrap();
    vms.start("c", &context()).await.unwrap();
    for name in ["b", "c"] {
        vms.delete(name, &context()).await.unwrap();
    }
    world.assert_empty();
}
