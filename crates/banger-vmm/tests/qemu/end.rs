//! Every way a machine ends, told apart.

use std::time::{Duration, Instant};

use banger_vmm::Exit;
use rustix::process::Signal;

use crate::guest::{Deed, print};
use crate::place::{Place, console_shows, identity, signal};

async fn exit_of(deeds: &[Deed]) -> (Exit, String) {
    let place = Place::new(deeds);
    let machine = place.launch().await;
    let exit = machine.wait().await;
    assert_eq!(machine.wait().await, exit, "asked again it is the same");
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, exit, "a kill that came late");
    // Reaped: not even a zombie.
    assert!(
        banger_host::process::stat(machine.record().pid)
            .unwrap()
            .is_none()
    );
    (exit, machine.console_tail(3))
}

pub async fn power_off() {
    let (exit, console) = exit_of(&[print("bye\n"), Deed::PowerOff]).await;
    assert_eq!(exit, Exit::PowerOff);
    assert!(console.ends_with("bye"), "{console}");
}

pub async fn reset() {
    let (exit, console) = exit_of(&[print("again\n"), Deed::Reset]).await;
    assert_eq!(exit, Exit::Reboot);
    assert!(
        console.matches("again").count() == 1,
        "QEMU ends instead of booting again: {console}"
    );
}

pub async fn a_panic_is_quoted() {
    let (exit, console) = exit_of(&[
        print("[    0.9] VFS: Cannot open root device\n"),
        print("[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n"),
        print("[    1.1] ---[ end Kernel panic - not syncing: VFS ]---\n"),
        Deed::Reset,
    ])
    .await;
    assert_eq!(
        exit,
        Exit::Died {
            reason:
                "the guest's kernel died: Kernel panic - not syncing: VFS: Unable to mount root fs"
                    .to_owned()
        }
    );
    assert!(console.contains("Cannot open root device"), "{console}");
}

pub async fn kill_ends_it_and_is_idempotent() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    console_shows(&machine, "up").await;
    let (first, second) = tokio::join!(machine.kill(), machine.kill());
    first.unwrap();
    second.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, Exit::Killed);
    assert!(!identity(machine.record()).is_alive().unwrap());
    assert!(machine.console_tail(1).ends_with("up"));
}

/// QEMU does not hear SIGTERM, as one whose storage hangs does not.
pub async fn a_stopped_qemu_is_killed_all_the_same() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    signal(machine.record().pid, Signal::STOP);
    let start = Instant::now();
    machine.kill().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(12));
    assert_eq!(machine.wait().await, Exit::Killed);
}

pub async fn a_murdered_qemu_died() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    signal(machine.record().pid, Signal::KILL);
    assert_eq!(
        machine.wait().await,
        Exit::Died {
            reason: "QEMU was killed by SIGKILL".to_owned()
        }
    );
}

pub async fn a_qemu_told_to_stop_by_somebody_else_died() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    signal(machine.record().pid, Signal::TERM);
    let Exit::Died { reason } = machine.wait().await else {
        panic!("{:?}", machine.wait().await);
    };
    let expected = "QEMU was told to stop by somebody else on the host";
    assert!(reason.starts_with(expected), "{reason}");
}
