//! Starting a machine, what it says, and what stops it from starting.

use std::time::{Duration, Instant};

use banger_vmm::qemu::{Qemu, QemuConfig};
use banger_vmm::{Disk, Vmm, VmmError, jail_path};
use tokio::io::AsyncReadExt;

use crate::guest::{Deed, print};
use crate::place::{PATIENCE, Place, console_shows, driver, identity, settings, until};

pub async fn the_console_arrives_from_its_first_line() {
    let place = Place::new(&[print("first\nsecond\n"), print("third\n")]);
    let machine = place.launch().await;
    console_shows(&machine, "third").await;
    // The firmware speaks first where it speaks at all.
    assert!(machine.console_tail(99).ends_with("first\nsecond\nthird"));
    assert_eq!(machine.console_tail(2), "second\nthird");
    assert_eq!(
        machine.console_tail(2),
        banger_vmm::console::tail(&place.directory(), 2)
    );

    let record = machine.record();
    assert_eq!(record.vmm, "qemu");
    assert_eq!(record.config, place.config());
    assert!(record.vmm_version.starts_with(|c: char| c.is_ascii_digit()));
    let identity = identity(record);
    assert!(identity.is_alive().unwrap());
    let written: banger_host::process::Identity =
        serde_json::from_str(&place.read(jail_path::PROCESS)).unwrap();
    assert_eq!(written, identity);
    machine.kill().await.unwrap();
}

pub async fn a_flooding_console_stays_under_its_cap() {
    const CAP: u64 = 16 << 10;
    const LINES: u32 = 5000;
    let place = Place::new(&[
        Deed::Count {
            lines: LINES,
            pause: 1,
        },
        Deed::PowerOff,
    ]);
    let driver = Qemu::new(QemuConfig {
        console_cap: CAP,
        ..settings()
    });
    let machine = driver.launch(place.config()).await.unwrap();
    let path = place.directory().join(jail_path::CONSOLE_LOG);
    let deadline = Instant::now() + PATIENCE;
    let mut largest = 0;
    while tokio::time::timeout(Duration::from_millis(1), machine.wait())
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "the guest never came to its end");
        largest = largest.max(std::fs::metadata(&path).unwrap().len());
    }
    assert!(largest > CAP / 2 && largest <= CAP, "{largest}");
    let text = place.read(jail_path::CONSOLE_LOG);
    assert!(text.len() as u64 <= CAP);
    assert!(text.starts_with("line "), "it begins with a whole line");
    assert!(text.ends_with(&format!("line {LINES:08}\n")), "{text:.40}");
}

pub async fn the_agents_pipe_takes_one_client_after_the_other() {
    let place = Place::new(&[print("up\n")]);
    let machine = place.launch().await;
    for _ in 0..2 {
        let mut pipe = machine.connect(1).await.unwrap();
        // This guest says nothing there, and QEMU keeps the connection.
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(50), pipe.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?}");
    }
    let mut pipe = machine.connect(1).await.unwrap();
    machine.kill().await.unwrap();
    let mut byte = [0];
    assert_eq!(pipe.read(&mut byte).await.unwrap_or(0), 0);
    let gone = machine.connect(1).await;
    assert!(matches!(gone, Err(VmmError::Gone)));
}

pub async fn a_missing_qemu_is_named() {
    let place = Place::new(&[]);
    let driver = Qemu::new(QemuConfig {
        binary: "/nonexistent/qemu-system-x86_64".into(),
        ..settings()
    });
    let error = driver.launch(place.config()).await.err().unwrap();
    assert!(matches!(error, VmmError::NotInstalled { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "/nonexistent/qemu-system-x86_64 is not installed"
    );
    assert_only_kernel_and_logs(&place);
}

pub async fn a_kernel_that_is_none_ends_the_launch_with_qemus_words() {
    let place = Place::new(&[]);
    place.write(jail_path::KERNEL, &[b'x'; 9000]);
    let error = launch_error(&place).await;
    assert!(matches!(error, VmmError::Launch { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("exit status 1"), "{text}");
    assert!(text.contains("kernel"), "{text}");
    assert_only_kernel_and_logs(&place);
}

pub async fn a_missing_disk_is_named() {
    let place = Place::new(&[]);
    let mut config = place.config();
    config.disks.push(Disk {
        serial: "upper".to_owned(),
        file: "upper".to_owned(),
        read_only: false,
    });
    let error = driver().launch(config).await.err().unwrap().to_string();
    assert!(error.contains("'upper'"), "{error}");
    assert!(error.contains("No such file"), "{error}");
    assert_only_kernel_and_logs(&place);
}

/// A program that answers like QEMU when asked for its version and then does nothing at all.
fn mute_qemu(place: &Place) -> QemuConfig {
    let script = "#!/bin/sh\n\
        case $1 in\n\
        --version) echo QEMU emulator version 1.0;;\n\
        -machine) echo q35 x;;\n\
        *) echo I am mute; exec sleep 600;;\n\
        esac\n";
    let binary = place.directory().join("mute");
    banger_host::files::write_atomic(&binary, script.as_bytes(), 0o755).unwrap();
    QemuConfig {
        binary,
        launch_limit: Duration::from_secs(2),
        ..settings()
    }
}

pub async fn a_qemu_that_never_listens_is_given_up() {
    let place = Place::new(&[]);
    let driver = Qemu::new(mute_qemu(&place));
    let start = Instant::now();
    let error = driver.launch(place.config()).await.err().unwrap();
    assert!(matches!(error, VmmError::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(
        banger_vmm::console::vmm_tail(&place.directory(), 5),
        "I am mute"
    );
    std::fs::remove_file(place.directory().join("mute")).unwrap();
    assert_only_kernel_and_logs(&place);
}

pub async fn a_launch_given_up_leaves_no_process() {
    let place = Place::new(&[]);
    let driver = Qemu::new(QemuConfig {
        launch_limit: PATIENCE,
        ..mute_qemu(&place)
    });
    let record = place.directory().join(jail_path::PROCESS);
    {
        let launch = driver.launch(place.config());
        let started = until("the launcher's record", || record.exists());
        tokio::select! {
            _ = launch => panic!("it cannot have been launched"),
            () = started => {}
        }
    }
    let identity: banger_host::process::Identity =
        serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    until("the end of a process nobody waits for", || {
        // A zombie would have a stat.
        banger_host::process::stat(identity.pid).unwrap().is_none()
    })
    .await;
}

pub async fn an_invalid_configuration_starts_nothing() {
    let place = Place::new(&[]);
    let mut config = place.config();
    config.vcpus = 0;
    let error = driver().launch(config).await.err().unwrap();
    assert!(matches!(error, VmmError::InvalidConfig(_)), "{error:?}");
    let mut config = place.config();
    config.directory = place.directory().join("none");
    let error = driver().launch(config).await.err().unwrap();
    assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
    assert_only_kernel_and_logs(&place);
}

async fn launch_error(place: &Place) -> VmmError {
    driver().launch(place.config()).await.err().unwrap()
}

/// What a failed launch may leave, and no process: its record would say which.
fn assert_only_kernel_and_logs(place: &Place) {
    let allowed = [
        jail_path::KERNEL,
        jail_path::INITRAMFS,
        jail_path::CONSOLE_LOG,
        jail_path::VMM_LOG,
    ];
    for entry in std::fs::read_dir(place.directory()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(allowed.iter().any(|one| name == *one), "{name:?}");
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let cwd = std::fs::read_link(process.path().join("cwd"));
        assert_ne!(cwd.ok(), Some(place.directory()), "{process:?}");
    }
}
