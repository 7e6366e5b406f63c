//! The life of a VM: created, started, stopped, deleted; and every way its machine can end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::vm_support::guest::Behaviour;
use crate::vm_support::{World, create, have_mke2fs, listed, names, until_state, wait_for};
use banger_protocol::agent::Down;
use banger_protocol::api::vm::{InitChoice, MainSpec, MainState, VmState, WaitFor, WaitQuery};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_vmm::Exit;
use banger_vmm::fake::{Call, Fault};
use bangerd::operation::{Context, OperationLimits, Operations};
use bangerd::vm::Vms;
use bangerd::vm::spec::NewVm;

fn context() -> Context {
    Context::detached()
}

fn main_spec(words: &[&str]) -> Option<MainSpec> {
    Some(MainSpec {
        command: words
            .iter()
            .map(|word| ByteString(word.as_bytes().to_vec()))
            .collect(),
    })
}

async fn running(world: &World, name: &str) -> Vms {
    let vms = world.open().await;
    create(&vms, world.new_vm(name)).await.unwrap();
    vms
}

#[tokio::test]
async fn a_vm_lives_and_leaves_nothing() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let vm = create(&vms, world.new_vm("web")).await.unwrap();
    assert_eq!(vm.state, VmState::Running);
    assert_eq!(vm.init, Some(InitChoice::Agent));
    assert!(vm.disk_used_bytes > 0 && vm.disk_used_bytes < 1 << 20);
    let machine = vm.machine.unwrap();
    assert_eq!(
        (machine.vmm.as_str(), machine.agent_generation),
        ("fake", 1)
    );
    let phases: Vec<&str> = vm
        .timings
        .iter()
        .map(|timing| timing.phase.as_str())
        .collect();
    let expected = [
        "create",
        "prepare",
        "disk",
        "jail",
        "vmm",
        "guest_kernel",
        "agent",
    ];
    assert_eq!(phases, expected);
    let boot = world
        .guests
        .of(vm.id.as_str())
        .boot
        .lock()
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(boot.hostname, "web");
    assert_eq!(boot.disks.base_digest, "b1");
    assert_eq!(boot.entropy.0.len(), 64);

    // Asked for again, what is so stays so.
    assert_eq!(
        vms.start("web", &context()).await.unwrap().state,
        VmState::Running
    );
    let stopped = vms.stop("web", None, &context()).await.unwrap();
    assert_eq!((stopped.state, stopped.note), (VmState::Stopped, None));
    assert_eq!(stopped.machine, None);
    assert_eq!(
        vms.stop("web", None, &context()).await.unwrap().state,
        VmState::Stopped
    );
    assert_eq!(world.vmm.running(), Vec::<String>::new());
    let directory = world.vms_directory().join(vm.id.as_str());
    assert_eq!(names(&directory), ["base", "initramfs", "kernel", "upper"]);

    // By the beginning of its id.
    let started = vms.start(&vm.id.as_str()[..8], &context()).await.unwrap();
    assert_eq!(started.state, VmState::Running);
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
    assert_eq!(listed(&vms).len(), 0);
    let error = vms.show("web").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_done() {
    let world = World::new();
    let vms = world.open().await;
    let mut bad = world.new_vm("web");
    bad.vcpus = 5;
    let error = create(&vms, bad).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    let mut first = world.new_vm("web");
    first.no_start = true;
    let vm = create(&vms, first.clone()).await.unwrap();
    assert_eq!(vm.state, VmState::Created);
    let error = create(&vms, first.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert!(error.hint.unwrap().contains("--name"));
    assert_eq!(world.directories(), [vm.id.to_string()]);
    // Of many that race for a name one wins; without a name all do.
    first.name = Some("race".parse().unwrap());
    let racers = (0..8).map(|_| create(&vms, first.clone()));
    let winners = futures_util::future::join_all(racers).await;
    assert_eq!(winners.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    first.name = None;
    for outcome in futures_util::future::join_all((0..8).map(|_| create(&vms, first.clone()))).await
    {
        outcome.unwrap();
    }
    assert_eq!(listed(&vms).len(), 10);
    let error = vms.exec("web", Default::default()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::WrongState);
    assert_eq!(error.hint.as_deref(), Some("banger vm start web"));
    let missing = world.root.path().join("missing");
    let mut gone = world.new_vm("gone");
    gone.image.base = missing;
    let error = create(&vms, gone).await.unwrap_err();
    assert!(error.message.contains("missing"), "{}", error.message);
    assert!(vms.show("gone").await.is_err());
    assert_eq!(world.directories().len(), 10);
}

async fn fails_to_boot(behaviour: Behaviour, change: impl FnOnce(&mut World)) -> (World, ApiError) {
    let mut world = World::new();
    world.guests.behave(behaviour);
    change(&mut world);
    let vms = world.open().await;
    let error = create(&vms, world.new_vm("web")).await.unwrap_err();
    let vm = vms.show("web").await.unwrap();
    assert_eq!(vm.state, VmState::Failed);
    assert_eq!(vm.failure, Some(error.clone()));
    assert_eq!(world.vmm.running(), Vec::<String>::new());
    let directory = world.vms_directory().join(vm.id.as_str());
    assert_eq!(names(&directory), ["base", "initramfs", "kernel"]);
    // It can be started once the reason is gone, and deleted.
    world.guests.behave(Behaviour::default());
    world.vmm.set_fault(Call::Launch, None);
    assert_eq!(vms.start("web", &context()).await.unwrap().failure, None);
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
    (world, error)
}

#[tokio::test]
async fn a_guest_that_does_not_boot_is_told_with_its_console() {
    if !have_mke2fs() {
        return;
    }
    let panics = Behaviour {
        ends_at_boot: Some(Down::Reboot),
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(panics, |_| {}).await;
    assert_eq!(error.kind, ErrorKind::BootFailed);
    assert_eq!(error.hint.as_deref(), Some("banger vm logs --console web"));
    assert!(
        error.details.iter().any(|line| line.contains("no root")),
        "{error:?}"
    );

    let off = Behaviour {
        ends_at_boot: Some(Down::PowerOff),
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(off, |_| {}).await;
    assert!(error.message.contains("switched itself off"), "{error}");

    let refuses = Behaviour {
        refuses_boot: Some("the base has another digest".to_owned()),
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(refuses, |_| {}).await;
    assert_eq!(error.kind, ErrorKind::BootFailed);
    assert!(error.message.contains("another digest"), "{error}");
    let talks = Behaviour {
        refuses_boot: Some("é".repeat(200_001)),
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(talks, |_| {}).await;
    assert!(error.message.contains("éé") && error.message.len() < 2000);

    let soon = |world: &mut World| world.settings.boot_timeout = Duration::from_millis(200);
    let deaf = Behaviour {
        deaf: true,
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(deaf, soon).await;
    assert!(
        error.message.contains("did not say hello within 200ms"),
        "{error}"
    );
    let hangs = Behaviour {
        hangs_at_boot: true,
        ..Behaviour::default()
    };
    let (_, error) = fails_to_boot(hangs, soon).await;
    assert!(
        error.message.contains("did not become ready within 200ms"),
        "{error}"
    );

    let (_, error) = fails_to_boot(Behaviour::default(), |world| {
        world.vmm.set_fault(
            Call::Launch,
            Some(Fault::Fail("no such machine".to_owned())),
        );
    })
    .await;
    assert!(error.message.contains("no such machine"), "{error}");
}

#[tokio::test]
async fn how_a_machine_ends_is_how_its_vm_ends() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = running(&world, "web").await;
    let id = vms.show("web").await.unwrap().id.to_string();

    world.guests.of(&id).power_off();
    let vm = until_state(&vms, "web", VmState::Stopped).await;
    assert_eq!((vm.failure, vm.note), (None, None));

    vms.start("web", &context()).await.unwrap();
    let reason = "killed by signal 9".to_owned();
    world.vmm.end(&id, Exit::Died { reason });
    let vm = until_state(&vms, "web", VmState::Failed).await;
    let failure = vm.failure.unwrap();
    assert_eq!(failure.kind, ErrorKind::MachineDied);
    assert!(failure.message.contains("signal 9"), "{failure}");
    assert!(!failure.details.is_empty());

    vms.start("web", &context()).await.unwrap();
    let before = vms.show("web").await.unwrap().started_at;
    world.guests.of(&id).reboot();
    let rebooted = async {
        while vms.show("web").await.unwrap().started_at == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rebooted)
        .await
        .unwrap();
    until_state(&vms, "web", VmState::Running).await;

    // A guest that restarts again and again is given up.
    let given_up = async {
        loop {
            let vm = vms.show("web").await.unwrap();
            match vm.state {
                VmState::Failed => return vm.failure.unwrap(),
                VmState::Running => world.guests.of(&id).reboot(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let failure = tokio::time::timeout(Duration::from_secs(20), given_up)
        .await
        .unwrap();
    assert!(
        failure.message.contains("restarted itself 5 times"),
        "{failure}"
    );
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn a_guest_that_does_not_end_is_killed_and_the_note_says_so() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    world.guests.behave(Behaviour {
        ignores_shutdown: true,
        ..Behaviour::default()
    });
    let vms = running(&world, "web").await;
    let bound = Some(Duration::from_millis(100));
    let vm = vms.stop("web", bound, &context()).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert!(vm.note.unwrap().contains("did not end within"));
    vms.start("web", &context()).await.unwrap();
    // 0 kills at once, and that is what was asked for.
    let vm = vms
        .stop("web", Some(Duration::ZERO), &context())
        .await
        .unwrap();
    assert_eq!((vm.state, vm.note), (VmState::Stopped, None));

    // A second, shorter stop shortens the first.
    vms.start("web", &context()).await.unwrap();
    let (first_context, second_context) = (context(), context());
    let long = vms.stop("web", None, &first_context);
    let short = async {
        until_state(&vms, "web", VmState::Stopping).await;
        vms.stop("web", Some(Duration::ZERO), &second_context).await
    };
    let (long, short) =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(long, short) })
            .await
            .unwrap();
    assert_eq!(
        (long.unwrap().state, short.unwrap().state),
        (VmState::Stopped, VmState::Stopped)
    );
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn what_does_not_answer_is_not_running() {
    if !have_mke2fs() {
        return;
    }
    let mut world = World::new();
    world.settings.agent.answer = Duration::from_millis(100);
    let vms = running(&world, "web").await;
    let id = vms.show("web").await.unwrap().id.to_string();
    assert!(vms.health("web").await.unwrap().healthy);
    world.guests.of(&id).silent.store(true, Ordering::SeqCst);
    until_state(&vms, "web", VmState::Unresponsive).await;
    let health = vms.health("web").await.unwrap();
    assert!(!health.healthy);
    assert_eq!(health.error.unwrap().kind, ErrorKind::GuestUnreachable);
    let error = vms.exec("web", Default::default()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::GuestUnreachable);
    world.guests.of(&id).silent.store(false, Ordering::SeqCst);
    until_state(&vms, "web", VmState::Running).await;
    // Silent again, it can be stopped and deleted all the same.
    world.guests.of(&id).silent.store(true, Ordering::SeqCst);
    until_state(&vms, "web", VmState::Unresponsive).await;
    let vm = vms
        .stop("web", Some(Duration::from_millis(200)), &context())
        .await
        .unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert!(vm.note.unwrap().contains("killed"));
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn a_cancelled_creation_is_undone_and_a_cancelled_start_is_a_stop() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    world.guests.behave(Behaviour {
        deaf: true,
        ..Behaviour::default()
    });
    let vms = world.open().await;
    let operations = Operations::new(OperationLimits::default());
    let (shared, new) = (vms.clone(), world.new_vm("web"));
    let kind = banger_protocol::api::operation::OperationKind::VmCreate;
    let creating = operations
        .start(kind, "web", |context| async move {
            let vm = shared.create(new, &context).await?;
            Ok(banger_protocol::api::operation::OperationResult::Vm { vm: Box::new(vm) })
        })
        .unwrap();
    until_known(&vms, "web").await;
    until_state(&vms, "web", VmState::Starting).await;
    creating.cancel();
    assert_eq!(
        creating.ended().await.error.unwrap().kind,
        ErrorKind::Cancelled
    );
    world.assert_empty();

    let mut new = world.new_vm("web");
    new.no_start = true;
    create(&vms, new).await.unwrap();
    let shared = vms.clone();
    let starting = operations
        .start(kind, "web", |context| async move {
            let vm = shared.start("web", &context).await?;
            Ok(banger_protocol::api::operation::OperationResult::Vm { vm: Box::new(vm) })
        })
        .unwrap();
    until_state(&vms, "web", VmState::Starting).await;
    // A second one who waits keeps it going when the first leaves.
    let shared = vms.clone();
    let second = tokio::spawn(async move { shared.start("web", &Context::detached()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    starting.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(vms.show("web").await.unwrap().state, VmState::Starting);
    // A stop cuts it short for all.
    let vm = vms.stop("web", None, &context()).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert_eq!(
        second.await.unwrap().unwrap_err().kind,
        ErrorKind::Cancelled
    );
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

async fn until_known(vms: &Vms, name: &str) {
    let known = async {
        while vms.show(name).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known)
        .await
        .unwrap();
}

#[tokio::test]
async fn deleting_while_it_boots_or_stops_ends_it() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    world.guests.behave(Behaviour {
        deaf: true,
        ..Behaviour::default()
    });
    let vms = world.open().await;
    let (shared, new) = (vms.clone(), world.new_vm("web"));
    let creating = tokio::spawn(async move { create(&shared, new).await });
    until_known(&vms, "web").await;
    until_state(&vms, "web", VmState::Starting).await;
    vms.delete("web", &context()).await.unwrap();
    assert!(creating.await.unwrap().is_err());
    world.assert_empty();
}

#[tokio::test]
async fn a_persistent_main_runs_at_every_start_and_its_end_is_not_the_machines() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let mut new = world.new_vm("web");
    new.main = main_spec(&["wait"]);
    create(&vms, new).await.unwrap();
    let id = vms.show("web").await.unwrap().id.to_string();
    let main = vms.show("web").await.unwrap().main.unwrap();
    assert!(main.persistent);
    assert_eq!(main.state, MainState::Running);
    world.guests.of(&id).main().print(b"one\n");
    world
        .guests
        .of(&id)
        .main()
        .end(banger_protocol::exec::ExitStatus::Code(3));
    assert_eq!(wait_for(&vms, "web", WaitFor::Main).await, Some(3));
    assert_eq!(vms.show("web").await.unwrap().state, VmState::Running);
    vms.stop("web", None, &context()).await.unwrap();
    assert_eq!(
        vms.show("web").await.unwrap().main.unwrap().exit_code,
        Some(3)
    );

    vms.start("web", &context()).await.unwrap();
    let main = vms.show("web").await.unwrap().main.unwrap();
    assert_eq!((main.state, main.exit_code), (MainState::Running, None));
    vms.stop("web", None, &context()).await.unwrap();
    // What ended it is told: SIGTERM at the shutdown.
    assert_eq!(
        vms.show("web").await.unwrap().main.unwrap().exit_code,
        Some(143)
    );

    // Nothing to run, and an image's init, leave a machine.
    for init in [None, Some(InitChoice::Image)] {
        let mut new = world.new_vm("idle");
        new.main = main_spec(&[]);
        new.init = init;
        let vm = create(&vms, new).await.unwrap();
        assert_eq!((vm.state, vm.main), (VmState::Running, None));
        assert_eq!(vm.init, Some(init.unwrap_or(InitChoice::Agent)));
        vms.delete("idle", &context()).await.unwrap();
    }
    vms.delete("web", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn an_ephemeral_vm_goes_with_its_main_or_its_machine() {
    if !have_mke2fs() {
        return;
    }
    let mut world = World::new();
    world.settings.main_grace = Duration::from_millis(300);
    let vms = world.open().await;
    let ephemeral = |main: Option<MainSpec>| {
        let mut new = world.new_vm("once");
        new.ephemeral = true;
        new.main = main;
        new
    };
    // Its main ends.
    create(&vms, ephemeral(main_spec(&["wait"]))).await.unwrap();
    let id = vms.show("once").await.unwrap().id.to_string();
    world
        .guests
        .of(&id)
        .main()
        .end(banger_protocol::exec::ExitStatus::Code(0));
    wait_for(&vms, "once", WaitFor::Deleted).await;
    world.assert_empty();
    // It switches itself off.
    create(&vms, ephemeral(main_spec(&["wait"]))).await.unwrap();
    let id = vms.show("once").await.unwrap().id.to_string();
    world.guests.of(&id).power_off();
    wait_for(&vms, "once", WaitFor::Deleted).await;
    world.assert_empty();
    // It is stopped.
    create(&vms, ephemeral(main_spec(&["wait"]))).await.unwrap();
    vms.stop("once", None, &context()).await.unwrap();
    wait_for(&vms, "once", WaitFor::Deleted).await;
    world.assert_empty();
    // The client that was to start its main never came.
    create(&vms, ephemeral(None)).await.unwrap();
    wait_for(&vms, "once", WaitFor::Deleted).await;
    world.assert_empty();
    // A machine without a main is not waited for.
    create(&vms, ephemeral(main_spec(&[]))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(vms.show("once").await.unwrap().state, VmState::Running);
    vms.delete("once", &context()).await.unwrap();
    // One that died, or was never ready, is kept to be looked at.
    create(&vms, ephemeral(main_spec(&["wait"]))).await.unwrap();
    let id = vms.show("once").await.unwrap().id.to_string();
    world.vmm.end(
        &id,
        Exit::Died {
            reason: "x".to_owned(),
        },
    );
    until_state(&vms, "once", VmState::Failed).await;
    vms.delete("once", &context()).await.unwrap();
    world.guests.behave(Behaviour {
        ends_at_boot: Some(Down::PowerOff),
        ..Behaviour::default()
    });
    create(&vms, ephemeral(main_spec(&["wait"])))
        .await
        .unwrap_err();
    assert_eq!(vms.show("once").await.unwrap().state, VmState::Failed);
    vms.delete("once", &context()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn waiting_is_bounded_and_told_of_failure() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = running(&world, "web").await;
    let query = |wait_for, timeout_ms| WaitQuery {
        wait_for,
        timeout_ms: Some(timeout_ms),
    };
    let error = vms
        .wait("web", query(WaitFor::Stopped, 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(error.message.contains("it is running"), "{error}");
    assert!(
        vms.wait("web", query(WaitFor::Ready, 0))
            .await
            .unwrap()
            .vm
            .is_some()
    );
    let id = vms.show("web").await.unwrap().id.to_string();
    world.vmm.end(
        &id,
        Exit::Died {
            reason: "x".to_owned(),
        },
    );
    until_state(&vms, "web", VmState::Failed).await;
    let error = vms
        .wait("web", query(WaitFor::Ready, 1000))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::MachineDied);
    let (deleted, waited) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            vms.delete("web", &context()).await
        },
        vms.wait("web", query(WaitFor::Deleted, 20_000)),
    );
    deleted.unwrap();
    assert_eq!(waited.unwrap().vm, None);
    world.assert_empty();
}

#[tokio::test]
async fn a_thousand_vms_are_listed_quickly_and_by_name() {
    let world = World::new();
    let store = world.store();
    for number in 0..1000 {
        let mut row = bangerd::store::vms::VmRow {
            id: format!("{number:012x}").parse().unwrap(),
            name: format!("vm-{number:04}").parse().unwrap(),
            state: bangerd::vm::state::State::Stopped,
            transition: 4,
            spec: spec_of(&world),
            observed: Default::default(),
        };
        row.spec.vcpus = 1 + number % 4;
        store.insert_vm(&row).unwrap();
    }
    drop(store);
    let vms = world.open().await;
    // Made, and then remembered.
    for _ in 0..2 {
        let listed = listed(&vms);
        assert_eq!(listed.len(), 1000);
        assert!(listed.is_sorted_by(|a, b| a.name < b.name));
    }
    assert_eq!(vms.show("vm-0500").await.unwrap().vcpus, 1);
    let error = vms.show("0000").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Ambiguous);
}

fn spec_of(world: &World) -> bangerd::vm::spec::VmSpec {
    let new = world.new_vm("x");
    bangerd::vm::spec::VmSpec {
        image: new.image.name,
        image_digest: new.image.digest,
        base_digest: new.image.base_digest,
        image_config: new.image.config,
        kernel: new.kernel.name,
        kernel_sha256: new.kernel.sha256,
        vcpus: 1,
        memory_mib: 256,
        disk_mib: 16,
        init: None,
        env: Vec::new(),
        user: None,
        workdir: None,
        main: None,
        ephemeral: false,
        created_at: time::OffsetDateTime::UNIX_EPOCH,
    }
}

/// Commands count in the order in which they come.
#[tokio::test]
async fn a_start_after_a_stop_is_not_cancelled_by_it() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let new = NewVm {
        no_start: true,
        ..world.new_vm("web")
    };
    create(&vms, new).await.unwrap();
    let (first, second) = (Context::detached(), Context::detached());
    // Each sends its command as soon as it is polled; making the disk takes longer than that.
    let (started, stopped, again) = tokio::join!(
        biased;
        vms.start("web", &first),
        vms.stop("web", None, &second),
        vms.start("web", &second),
    );
    assert_eq!(started.unwrap_err().kind, ErrorKind::Cancelled);
    stopped.unwrap();
    assert_eq!(again.unwrap().state, VmState::Running);
    vms.delete("web", &first).await.unwrap();
    world.assert_empty();
}
