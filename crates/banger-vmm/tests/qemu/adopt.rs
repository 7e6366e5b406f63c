//! Machines whose daemon is gone, taken over by another, and what is not taken over.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_host::process::Identity;
use banger_vmm::qemu::{Qemu, QemuConfig};
use banger_vmm::{Exit, MachineRecord, Vmm, VmmError, jail_path};
use rustix::process::Signal;

use crate::guest::{Deed, print};
use crate::place::{
    Daemon, Place, adopt, console_shows, driver, identity, settings, signal, until,
};

/// A line about every 20 ms until the machine is ended.
const TICKING: Deed = Deed::Count {
    lines: u32::MAX,
    pause: 20_000,
};

fn last_number(place: &Place) -> u32 {
    let text = place.read(jail_path::CONSOLE_LOG);
    text.lines()
        .filter_map(|line| line.strip_prefix("line "))
        .filter(|number| number.len() == 8)
        .filter_map(|number| number.parse().ok())
        .next_back()
        .unwrap_or(0)
}

pub async fn what_a_killed_daemon_left_runs_on() {
    let place = Place::new(&[TICKING]);
    let record = Daemon::launch(&place.config(), None).kill();
    let before = last_number(&place);
    let machine = adopt(&record).await.unwrap();
    assert_eq!(*machine.record(), record);
    until("new lines on the console", || {
        last_number(&place) > before + 3
    })
    .await;
    drop(machine.connect(1).await.unwrap());

    // Let go of and adopted again, by this process, which is not the parent of the VMM.
    drop(machine);
    let machine = adopt(&record).await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, Exit::Killed);
    assert!(!identity(&record).is_alive().unwrap());
}

/// However often it was asked meanwhile: its socket lets few connections wait.
pub async fn a_stopped_vmm_is_silent_and_adopted_once_it_goes_on() {
    let place = Place::new(&[TICKING]);
    let record = Daemon::launch(&place.config(), None).kill();
    signal(record.pid, Signal::STOP);
    let mut settings = settings();
    settings.answer_limit = Duration::from_millis(50);
    let driver = Qemu::new(settings);
    for attempt in 0..6 {
        let adopted = driver.adopt(record.clone()).await;
        let Err(error) = adopted else {
            panic!("adopted at attempt {attempt}");
        };
        assert!(
            matches!(error, VmmError::Timeout { .. }),
            "attempt {attempt}: {error:?}"
        );
    }
    assert!(identity(&record).is_alive().unwrap());
    signal(record.pid, Signal::CONT);
    // It first takes those that wait, of whom nobody is there any more.
    let deadline = Instant::now() + Duration::from_secs(20);
    let machine = loop {
        match crate::place::driver().adopt(record.clone()).await {
            Err(VmmError::Timeout { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            adopted => break adopted.unwrap().unwrap(),
        }
    };
    machine.kill().await.unwrap();
}

pub async fn while_no_daemon_lives_nothing_is_written() {
    let place = Place::new(&[Deed::Count {
        lines: u32::MAX,
        pause: 1,
    }]);
    let record = Daemon::launch(&place.config(), None).kill();
    let size = || {
        let entries = std::fs::read_dir(place.directory()).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum::<u64>()
    };
    let before = (size(), last_number(&place));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((size(), last_number(&place)), before);
    // It was not made to wait either: when heard again it is far ahead.
    let machine = adopt(&record).await.unwrap();
    until("the flood on the console", || {
        last_number(&place) > before.1 + 100
    })
    .await;
    let text = place.read(jail_path::CONSOLE_LOG);
    assert!(
        !text.contains(&format!("line {:08}\nline", before.1 + 2)),
        "what was printed in between is lost"
    );
    machine.kill().await.unwrap();
}

pub async fn the_end_of_an_adopted_machine_is_known() {
    let cases = [
        (Deed::PowerOff, Exit::PowerOff),
        (Deed::Reset, Exit::Reboot),
    ];
    for (deed, expected) in cases {
        let place = Place::new(&[
            Deed::Count {
                lines: 300,
                pause: 10_000,
            },
            deed,
        ]);
        let record = Daemon::launch(&place.config(), None).kill();
        let machine = adopt(&record).await.unwrap();
        assert_eq!(machine.wait().await, expected);
    }
    let place = Place::new(&[TICKING]);
    let record = Daemon::launch(&place.config(), None).kill();
    let machine = adopt(&record).await.unwrap();
    signal(record.pid, Signal::KILL);
    assert_eq!(
        machine.wait().await,
        Exit::Died {
            reason: "QEMU ended without the guest asking for it".to_owned()
        }
    );
}

/// A process that stands where the record says, and what becomes of it.
async fn bystander(record: impl Fn(Identity) -> MachineRecord) {
    let mut child = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let record = record(Identity::of(pid).unwrap().unwrap());
    // `None` or an error: either way it is nobody's machine.
    let adopted = driver().adopt(record).await;
    assert!(!matches!(adopted, Ok(Some(_))));
    assert!(child.try_wait().unwrap().is_none(), "it was ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

pub async fn another_process_under_the_number_is_left_alone() {
    let place = Place::new(&[TICKING]);
    let machine = place.launch().await;
    let record = machine.record().clone();
    // The number is used again, by a process that started at another time.
    bystander(|identity| MachineRecord {
        pid: identity.pid,
        start_time: record.start_time,
        ..record.clone()
    })
    .await;
    // Both numbers are those of another process: it is not the one that listens on the sockets.
    bystander(|identity| MachineRecord {
        pid: identity.pid,
        start_time: identity.start_time,
        ..record.clone()
    })
    .await;
    // The machine itself, under another VM's record.
    let mut foreign = record.clone();
    foreign.config.id = "another".to_owned();
    drop(machine);
    assert!(adopt(&foreign).await.is_none());
    assert!(identity(&record).is_alive().unwrap());
    let machine = adopt(&record).await.unwrap();
    machine.kill().await.unwrap();
    // Another driver's machine.
    let mut fire = record;
    fire.vmm = "firecracker".to_owned();
    let refused = driver().adopt(fire).await.err().unwrap();
    assert!(matches!(refused, VmmError::Unsupported { .. }));
}

pub async fn a_machine_that_ended_is_not_adopted() {
    let place = Place::new(&[print("up\n")]);
    let record = Daemon::launch(&place.config(), None).kill();
    let machine = adopt(&record).await.unwrap();
    machine.kill().await.unwrap();
    assert!(adopt(&record).await.is_none());
    // Not even its directory is needed to know.
    drop(place);
    assert!(adopt(&record).await.is_none());
}

/// Its daemon died between the launch and the `cont`.
pub async fn a_machine_that_never_ran_is_ended() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", machine.record().pid)).unwrap();
    machine.kill().await.unwrap();
    let arguments: Vec<String> = String::from_utf8(arguments)
        .unwrap()
        .split_terminator('\0')
        .map(str::to_owned)
        .collect();
    for name in [
        jail_path::API_SOCKET,
        jail_path::AGENT_SOCKET,
        jail_path::CONSOLE_SOCKET,
    ] {
        let _ = std::fs::remove_file(place.directory().join(name));
    }
    let mut child = Command::new(&arguments[0])
        .args(&arguments[1..])
        .current_dir(place.directory())
        .spawn()
        .unwrap();
    let identity = Identity::of(i32::try_from(child.id()).unwrap())
        .unwrap()
        .unwrap();
    let socket = place.directory().join(jail_path::API_SOCKET);
    until("its control socket", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    })
    .await;
    let record = MachineRecord {
        pid: identity.pid,
        start_time: identity.start_time,
        ..machine.record().clone()
    };
    assert!(adopt(&record).await.is_none());
    assert!(!child.wait().unwrap().success());
}

fn impatient() -> Qemu {
    Qemu::new(QemuConfig {
        answer_limit: Duration::from_millis(300),
        ..settings()
    })
}

pub async fn a_qemu_that_does_not_answer_is_given_up_in_time() {
    let place = Place::new(&[TICKING]);
    let record = Daemon::launch(&place.config(), None).kill();
    signal(record.pid, Signal::STOP);
    let start = Instant::now();
    let error = impatient().adopt(record.clone()).await.err().unwrap();
    assert!(matches!(error, VmmError::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // Given up, not ended: somebody may look at it.
    assert!(identity(&record).is_alive().unwrap());
    signal(record.pid, Signal::CONT);
    let machine = adopt(&record).await.unwrap();
    console_shows(&machine, "line ").await;
    machine.kill().await.unwrap();
}

pub async fn one_that_is_held_already_is_given_up_in_time() {
    let place = Place::new(&[TICKING]);
    let machine = place.launch().await;
    let error = impatient()
        .adopt(machine.record().clone())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, VmmError::Timeout { .. }), "{error:?}");
    // The holder lost nothing.
    let before = last_number(&place);
    until("new lines for the holder", || {
        last_number(&place) > before + 3
    })
    .await;
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, Exit::Killed);
}
