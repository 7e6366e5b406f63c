//! The blob cache and the bases: work is done once, and damage heals.

use std::collections::HashSet;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use banger_image::digest::Digest;
use banger_image::import::Pruned;
use banger_image::progress::Progress;
use banger_image::registry::Credentials;

use crate::fake::Fake;
use crate::images::{TestImage, noise, tar};
use crate::{Root, base_holds, whole};

fn file(name: &str, seed: u64) -> Vec<u8> {
    tar(&[(
        name,
        &[format!("marker-{seed}").into_bytes(), noise(seed, 100_000)].concat(),
    )])
}

#[tokio::test]
async fn an_image_that_is_there_is_not_fetched_again() {
    let fake = Fake::honest();
    fake.put("app", "1", &TestImage::new(&[file("a", 1)]));
    let root = Root::new();
    let first = root.pull(&fake.reference("app:1")).await.unwrap();
    let second = root.pull(&fake.reference("app:1")).await.unwrap();
    assert_eq!(first.base, second.base);
    assert!(fake.blob_requests().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_of_one_image_do_the_work_once() {
    let fake = Fake::new(|_, mut honest| {
        honest.delay = Duration::from_millis(50);
        honest
    });
    fake.put("app", "1", &TestImage::new(&[file("a", 1), file("b", 2)]));
    let root = Root::new();
    let reference = fake.reference("app:1");
    let pulls = (0..4).map(|_| root.pull(&reference));
    let outcomes = futures_util::future::join_all(pulls).await;
    let bases: HashSet<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap().base)
        .collect();
    assert_eq!(bases.len(), 1);
    let requests = fake.blob_requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.values().all(|count| *count == 1), "{requests:?}");
    assert_eq!(root.files("staging").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_share_a_layer_fetch_it_once() {
    let fake = Fake::new(|_, mut honest| {
        honest.delay = Duration::from_millis(50);
        honest
    });
    let shared = file("shared", 1);
    fake.put("one", "1", &TestImage::new(&[shared.clone(), file("b", 2)]));
    fake.put("two", "1", &TestImage::new(&[shared, file("c", 3)]));
    let root = Root::new();
    let (one, two) = (fake.reference("one:1"), fake.reference("two:1"));
    let (one, two) = tokio::join!(root.pull(&one), root.pull(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.base_digest, two.base_digest);
    assert!(base_holds(&one, "marker-1") && base_holds(&one, "marker-2"));
    assert!(base_holds(&two, "marker-1") && base_holds(&two, "marker-3"));
    // Two configurations and three layers.
    assert_eq!(fake.blob_requests().values().sum::<usize>(), 5);
}

#[tokio::test]
async fn a_layer_that_is_there_twice_is_fetched_once() {
    let fake = Fake::honest();
    let layer = file("a", 1);
    fake.put(
        "app",
        "1",
        &TestImage::new(&[layer.clone(), file("b", 2), layer]),
    );
    let root = Root::new();
    let imported = root.pull(&fake.reference("app:1")).await.unwrap();
    assert!(base_holds(&imported, "marker-1"));
    assert!(fake.blob_requests().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pulls_broken_registry_is_not_ours() {
    let image = TestImage::new(&[file("a", 1)]);
    let layer = image.layers[0];
    // Serves the beginning of the layer, then nothing.
    let broken = Fake::new(move |request, mut honest| {
        if request.path.ends_with(&layer.to_string()) {
            honest.cut = Some(if request.offset() == 0 { 70_000 } else { 0 });
            honest.delay = Duration::from_millis(100);
        }
        honest
    });
    let sound = Fake::honest();
    broken.put("app", "1", &image);
    sound.put("app", "1", &image);
    // The same layer in an image of its own, so that the two do not wait for each other.
    let other = TestImage::new(&[file("a", 1), file("b", 2)]);
    sound.put("app", "2", &other);
    let root = Root::new();
    let (broken, sound) = (broken.reference("app:1"), sound.reference("app:2"));
    let late = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        root.pull(&sound).await
    };
    let (ill, well) = tokio::join!(root.pull(&broken), late);
    assert!(ill.is_err());
    let well = well.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert!(base_holds(&well, "marker-1"));
    assert_eq!(root.files("staging").len(), 0);
}

#[tokio::test]
async fn a_damaged_blob_is_found_and_fetched_again() {
    let image = TestImage::new(&[file("a", 1), file("b", 2)]);
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a changed byte in the middle", |bytes| {
            bytes[50_000] ^= 0x80
        }),
        ("a changed last byte", |bytes| {
            *bytes.last_mut().unwrap() ^= 1
        }),
        ("truncation", |bytes| bytes.truncate(500)),
        ("emptiness", Vec::clear),
    ];
    for (name, damage) in damages {
        let fake = Fake::honest();
        fake.put("app", "1", &image);
        let root = Root::new();
        let first = root.pull(&fake.reference("app:1")).await.unwrap();
        let intact = std::fs::read(&first.base).unwrap();
        // The base is gone, and one blob of each kind is damaged.
        std::fs::remove_file(&first.base).unwrap();
        let config = image
            .blobs
            .keys()
            .find(|digest| !image.layers.contains(digest))
            .unwrap();
        let blob = |digest: &Digest| root.path().join("blobs/sha256").join(digest.hex());
        let path = blob(&image.layers[1]);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(blob(config), b"{}").unwrap();
        let again = root.pull(&fake.reference("app:1")).await;
        let again = again.unwrap_or_else(|error| panic!("{name}: {}", whole(&error)));
        assert!(std::fs::read(&again.base).unwrap() == intact, "{name}");
        let requests = fake.blob_requests();
        let count = |digest: &Digest| requests[&format!("/v2/app/blobs/{digest}")];
        assert_eq!(count(&image.layers[0]), 1, "{name}");
        assert_eq!(count(&image.layers[1]), 2, "{name}");
        assert_eq!(count(config), 2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_are_fetched_in_parallel_but_not_all_at_once() {
    let three = Arc::new(Barrier::new(3));
    let fake = Fake::new(move |request, mut honest| {
        // All but the configuration, which comes alone.
        if request.is_blob() && honest.body.len() > 1000 {
            honest.together = Some(Arc::clone(&three));
            honest.delay = Duration::from_millis(40);
        }
        honest
    });
    let layers: Vec<_> = (0..9).map(|seed| file(&format!("f{seed}"), seed)).collect();
    fake.put("app", "1", &TestImage::new(&layers));
    let root = Root::new();
    root.pull(&fake.reference("app:1")).await.unwrap();
    assert_eq!(fake.busiest(), 3);
}

#[tokio::test]
async fn progress_grows_to_its_total() {
    let fake = Fake::new(|request, mut honest| {
        if request.is_blob() && honest.body.len() > 1000 {
            honest.stall = Some((60_000, Duration::from_millis(250)));
        }
        honest
    });
    fake.put("app", "1", &TestImage::new(&[file("a", 1)]));
    let root = Root::new();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let steps = Arc::clone(&steps);
        move |step| {
            let step = (step.stage, step.bytes_done, step.bytes_total);
            steps.lock().unwrap().push(step);
        }
    });
    let reference = fake.reference("app:1").parse().unwrap();
    root.images
        .pull(&reference, Credentials::Anonymous, &progress)
        .await
        .unwrap();
    let steps = steps.lock().unwrap();
    assert_eq!(steps[0], ("resolve", 0, None));
    assert!(
        steps
            .iter()
            .any(|(stage, done, _)| *stage == "download" && *done >= 60_000)
    );
    assert!(steps[1..].is_sorted_by_key(|(_, done, _)| *done));
    let (stage, done, total) = *steps.last().unwrap();
    assert_eq!((stage, Some(done)), ("import", total));
}

#[tokio::test]
async fn pruning_keeps_what_is_used_or_about_to_be() {
    let fake = Fake::honest();
    for seed in 1..=3 {
        let image = TestImage::new(&[file("a", seed)]);
        fake.put("app", &seed.to_string(), &image);
    }
    let root = Root::new();
    let used = root
        .pull(&fake.reference("app:1"))
        .await
        .unwrap()
        .base_digest;
    let leased = root.pull(&fake.reference("app:2")).await.unwrap();
    let unused = root
        .pull(&fake.reference("app:3"))
        .await
        .unwrap()
        .base_digest;
    let keep = HashSet::from([used]);

    let would = root.images.prune(&keep, true).unwrap();
    assert_eq!((would.blobs, would.bases), (6, 1));
    assert_eq!(
        (root.files("blobs/sha256").len(), root.files("bases").len()),
        (6, 3)
    );
    assert!(!root.images.remove_base(&leased.base_digest).unwrap());

    assert_eq!(root.images.prune(&keep, false).unwrap(), would);
    assert_eq!(
        (root.files("blobs/sha256").len(), root.files("bases").len()),
        (0, 2)
    );
    assert!(!root.images.base_path(&unused).exists());
    assert!(root.images.base_path(&used).exists() && leased.base.exists());

    drop(leased);
    let last = root.images.prune(&HashSet::new(), false).unwrap();
    assert_eq!((last.blobs, last.bases), (0, 2));
    assert_eq!(
        root.images.prune(&HashSet::new(), false).unwrap(),
        Pruned::default()
    );
    // All of it can be had again.
    root.pull(&fake.reference("app:1")).await.unwrap();
}
