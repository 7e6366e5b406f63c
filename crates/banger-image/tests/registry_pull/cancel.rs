//! Pulls that end early: dropped by their client, or killed with their process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_image::import::{ArchiveKind, Images};
use banger_image::progress::Progress;
use tokio::io::AsyncWriteExt;

use crate::fake::Fake;
use crate::images::{TestImage, noise, tar};
use crate::{Root, options};

/// Set for the process that is to be killed: its image root and the reference it pulls.
const VICTIM: &str = "BANGER_TEST_VICTIM";

fn image() -> TestImage {
    TestImage::new(&[
        tar(&[("a", &noise(1, 200_000))]),
        tar(&[("b", &noise(2, 200_000))]),
    ])
}

/// Sends half of each layer, and then nothing for longer than the test takes.
fn stalling() -> Fake {
    let fake = Fake::new(|_, mut honest| {
        if honest.body.len() > 1000 {
            honest.stall = Some((100_000, Duration::from_secs(60)));
        }
        honest
    });
    fake.put("app", "1", &image());
    fake
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} does not come"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing_and_can_be_repeated() {
    let fake = stalling();
    let root = Root::new();
    let reference = fake.reference("app:1");
    {
        let pull = root.pull(&reference);
        // Two layers and a base under way.
        let halfway = until("work in progress", || root.files("staging").len() == 3);
        tokio::select! {
            _ = pull => panic!("it cannot end"),
            () = halfway => {}
        }
    }
    // At once, not when its tasks have noticed.
    root.assert_nothing_published();

    let sound = Fake::honest();
    sound.put("app", "1", &image());
    root.pull(&sound.reference("app:1")).await.unwrap();
}

#[tokio::test]
async fn a_dropped_pull_hands_its_work_to_who_waits() {
    let fake = Fake::new(|request, mut honest| {
        // Only the first to ask is left waiting.
        if honest.body.len() > 1000 && request.earlier == 0 {
            honest.stall = Some((100_000, Duration::from_secs(60)));
        }
        honest
    });
    fake.put("app", "1", &image());
    let root = Root::new();
    let reference = fake.reference("app:1");
    let mut first = Box::pin(root.pull(&reference));
    tokio::select! {
        _ = &mut first => panic!("it cannot end"),
        () = until("work in progress", || root.files("staging").len() == 3) => {}
    }
    let second = root.pull(&reference);
    let let_go = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(second, let_go);
    second.unwrap();
    assert_eq!(root.files("staging").len(), 0);
}

#[tokio::test]
async fn a_dropped_import_leaves_nothing() {
    for kind in [ArchiveKind::RootfsTar, ArchiveKind::OciArchive] {
        let root = Root::new();
        let (mut client, mut stream) = tokio::io::duplex(1 << 16);
        let archive = tar(&[("a", &noise(1, 500_000))]);
        client.write_all(&archive[..50_000]).await.unwrap();
        {
            let none = Progress::none();
            let import = root
                .images
                .import_archive(kind, None, "x", &mut stream, &none);
            tokio::select! {
                _ = import => panic!("it cannot end"),
                () = until("work in progress", || root.files("staging").len() == 1) => {}
            }
        }
        until("an empty staging directory", || {
            root.files("staging").is_empty()
        })
        .await;
        root.assert_nothing_published();
    }
}

#[tokio::test]
async fn a_killed_pull_leaves_only_what_the_next_start_sweeps() {
    let fake = stalling();
    let root = Root::new();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cancel::victim", "--nocapture"])
        .env(
            VICTIM,
            format!("{} {}", root.path().display(), fake.reference("app:1")),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("work in progress", || root.files("staging").len() == 3).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(root.files("bases").len(), 0);
    assert_eq!(root.files("staging").len(), 3);
    // Archives are spooled into directories.
    std::fs::create_dir(root.path().join("staging/archive-x")).unwrap();
    std::fs::write(root.path().join("staging/archive-x/blob"), "x").unwrap();

    let next = Images::open(root.path(), options(|_| {})).unwrap();
    next.sweep().unwrap();
    root.assert_nothing_published();
    // The configuration was complete.
    assert_eq!(root.files("blobs/sha256").len(), 1);
}

/// Not a test of its own: the process that [`VICTIM`] is set for.
#[tokio::test]
async fn victim() {
    let Ok(order) = std::env::var(VICTIM) else {
        return;
    };
    let (root, reference) = order.split_once(' ').unwrap();
    let patient = |o: &mut banger_image::import::ImageOptions| {
        o.fetch.read_timeout = Duration::from_secs(60);
    };
    let images = Images::open(Path::new(root), options(patient)).unwrap();
    let credentials = banger_image::registry::Credentials::Anonymous;
    let reference = reference.parse().unwrap();
    let _ = images
        .pull(&reference, credentials, &Progress::none())
        .await;
}
