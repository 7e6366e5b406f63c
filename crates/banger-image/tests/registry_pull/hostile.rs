//! Registries that lie, break off, stall or refuse.

use std::time::{Duration, Instant};

use banger_image::digest::Digest;
use banger_image::error::{ImageError, ImageErrorKind as Kind};
use banger_image::import::ImageOptions;
use serde_json::json;

use crate::fake::{Fake, Reply, Request};
use crate::images::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST, TestImage, gzip, index, noise, tar};
use crate::{Root, base_holds, whole};

/// Long enough for several packets.
const SIZE: usize = 300_000;
/// A silence that no test waits out.
const LONG: Duration = Duration::from_secs(60);

fn sample() -> TestImage {
    let content = [b"marker-of-the-sample".to_vec(), noise(1, SIZE)].concat();
    TestImage::with_file("file", &content)
}

fn serving(script: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Fake {
    let fake = Fake::new(script);
    fake.put("app", "1", &sample());
    fake
}

/// Only the layer is meddled with: the configuration is small.
fn is_layer(reply: &Reply) -> bool {
    reply.body.len() > 1000
}

#[tokio::test]
async fn an_honest_registry_is_believed() {
    let fake = serving(|_, honest| honest);
    let root = Root::new();
    let imported = root.pull(&fake.reference("app:1")).await.unwrap();
    assert!(base_holds(&imported, "marker-of-the-sample"));
    assert_eq!(imported.manifest_digest, Some(sample().digest()));
    assert_eq!(imported.source, fake.reference("app:1"));
    assert_eq!(
        imported.size,
        std::fs::metadata(&imported.base).unwrap().len()
    );
    assert_eq!(root.files("staging").len(), 0);
    assert_eq!(root.files("blobs/sha256").len(), 2);
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let fake = serving(|request, mut honest| {
        if is_layer(&honest) && request.earlier < 3 {
            honest.cut = Some(100_000);
        }
        honest
    });
    let root = Root::new();
    let imported = root.pull(&fake.reference("app:1")).await.unwrap();
    assert!(base_holds(&imported, "marker-of-the-sample"));
    let offsets: Vec<_> = fake
        .log()
        .iter()
        .filter(|request| request.header("range").is_some())
        .map(Request::offset)
        .collect();
    assert_eq!(offsets, [100_000, 200_000, 300_000]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let fake = serving(|request, honest| {
        if request.is_blob() && request.earlier > 0 {
            // The whole blob, whatever was asked for.
            let whole = sample().blobs[&sample().layers[0]].clone();
            return Reply::new(200, whole);
        }
        let mut reply = honest;
        reply.cut = is_layer(&reply).then_some(100_000);
        reply
    });
    let root = Root::new();
    let imported = root.pull(&fake.reference("app:1")).await.unwrap();
    assert!(base_holds(&imported, "marker-of-the-sample"));
}

#[tokio::test]
async fn silence_is_broken_off_and_resumed() {
    let fake = serving(|request, mut honest| {
        if is_layer(&honest) && request.earlier == 0 {
            honest.stall = Some((50_000, LONG));
        }
        honest
    });
    let begun = Instant::now();
    let pulled = Root::impatient().pull(&fake.reference("app:1")).await;
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    pulled.unwrap();
    assert_eq!(fake.log().iter().map(Request::offset).max(), Some(50_000));
}

#[tokio::test]
async fn silence_for_ever_is_given_up() {
    let fake = serving(|_, mut honest| {
        honest.stall = Some((0, LONG));
        honest
    });
    let root = Root::impatient();
    let begun = Instant::now();
    let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    assert_eq!(error.kind(), Kind::Unreachable, "{}", whole(&error));
    assert!(
        whole(&error).contains("no answer within"),
        "{}",
        whole(&error)
    );
    root.assert_nothing_published();
}

#[tokio::test]
async fn passing_trouble_passes() {
    for status in [408, 429, 500, 502, 503, 504] {
        let fake = serving(move |request, honest| match request.earlier {
            0 | 1 => Reply::new(status, "").header("retry-after", "0"),
            _ => honest,
        });
        let root = Root::new();
        if let Err(error) = root.pull(&fake.reference("app:1")).await {
            panic!("{status}: {}", whole(&error));
        }
    }
}

/// One misbehaviour, and what it must come to.
struct Case {
    name: &'static str,
    script: fn(&Request, Reply) -> Reply,
    kind: Kind,
    text: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "not there",
        script: |_, _| Reply::new(404, r#"{"errors":[{"code":"X","message":"gone"}]}"#),
        kind: Kind::NotFound,
        text: "app:1 does not exist in 127.0.0.1",
    },
    Case {
        name: "500 for ever",
        script: |_, _| Reply::new(500, r#"{"errors":[{"message":"disk \u001b[31mbroken"}]}"#),
        kind: Kind::Unreachable,
        text: "the registry answered 500: disk  [31mbroken",
    },
    Case {
        name: "429 for ever",
        script: |_, _| Reply::new(429, "").header("retry-after", "0"),
        kind: Kind::RateLimited,
        text: "limits the rate",
    },
    Case {
        name: "429 for too long",
        script: |_, _| Reply::new(429, "").header("retry-after", "3600"),
        kind: Kind::RateLimited,
        text: "limits the rate",
    },
    Case {
        name: "403",
        script: |_, _| Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
        kind: Kind::Unauthorized,
        text: "refuses access to app:1: no",
    },
    Case {
        name: "teapot",
        script: |_, _| Reply::new(418, "<html>"),
        kind: Kind::Unreachable,
        text: "the registry answered 418",
    },
    Case {
        name: "layer with a changed byte",
        script: |_, mut honest| {
            if is_layer(&honest) {
                honest.body[200_000] ^= 1;
            }
            honest
        },
        kind: Kind::Corrupt,
        text: "its digest is sha256:",
    },
    Case {
        name: "configuration with a changed byte",
        script: |request, mut honest| {
            if request.is_blob() && !is_layer(&honest) {
                honest.body[5] ^= 1;
            }
            honest
        },
        kind: Kind::Corrupt,
        text: "its digest is sha256:",
    },
    Case {
        name: "layer too long",
        script: |_, mut honest| {
            if is_layer(&honest) {
                honest.body.extend_from_slice(b"more");
            }
            honest
        },
        kind: Kind::Corrupt,
        text: "bytes, not",
    },
    Case {
        name: "layer too long, length untold",
        script: |_, mut honest| {
            if is_layer(&honest) {
                honest.body.extend_from_slice(&[0; 100_000]);
                honest.content_length = false;
            }
            honest
        },
        kind: Kind::Corrupt,
        text: "it has more than",
    },
    Case {
        name: "layer too short",
        script: |_, mut honest| {
            if is_layer(&honest) {
                honest.body.truncate(100_000);
            }
            honest
        },
        kind: Kind::Corrupt,
        text: "it has 100000 bytes, not",
    },
    Case {
        name: "layer cut at the same place again and again",
        script: |request, mut honest| {
            if request.offset() > 0 {
                honest.cut = Some(0);
            } else if is_layer(&honest) {
                honest.cut = Some(100_000);
            }
            honest
        },
        kind: Kind::Unreachable,
        text: "the connection failed",
    },
    Case {
        name: "range that was not asked for",
        script: |request, mut honest| {
            if request.offset() > 0 {
                return Reply::new(206, "xx").header("content-range", "bytes 7-8/9");
            }
            if is_layer(&honest) {
                honest.cut = Some(100_000);
            }
            honest
        },
        kind: Kind::Unreachable,
        text: "the registry's answer makes no sense",
    },
    Case {
        name: "manifest without end",
        script: |_, honest| Reply {
            body: vec![b' '; 5 << 20],
            ..honest
        },
        kind: Kind::InvalidImage,
        text: "longer than 4194304 bytes",
    },
    Case {
        name: "no manifest at all",
        script: |_, _| Reply::new(200, "<html>hello</html>").header("content-type", "text/html"),
        kind: Kind::InvalidImage,
        text: "the manifest cannot be read",
    },
    Case {
        name: "redirect to plain HTTP elsewhere",
        script: |_, _| Reply::new(307, "").header("location", "http://192.0.2.1/x"),
        kind: Kind::Unreachable,
        text: "a redirect leads to plain HTTP",
    },
    Case {
        name: "redirect without end",
        script: |request, _| Reply::new(307, "").header("location", &request.path),
        kind: Kind::Unreachable,
        text: "too many redirects",
    },
    Case {
        name: "no HTTP",
        script: |_, _| Reply::new(200, "").header("\r\n\r\n\u{1}", "x"),
        kind: Kind::InvalidImage,
        text: "the manifest cannot be read",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_misbehaviour_gets_its_own_error_and_leaves_nothing() {
    let cases = CASES.iter().map(async |case| {
        let fake = serving(case.script);
        let root = Root::new();
        let begun = Instant::now();
        let error = match root.pull(&fake.reference("app:1")).await {
            Ok(_) => panic!("{}: it was believed", case.name),
            Err(error) => error,
        };
        let text = whole(&error);
        assert_eq!(error.kind(), case.kind, "{}: {text}", case.name);
        assert!(text.contains(case.text), "{}: {text}", case.name);
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", case.name);
        root.assert_nothing_published();
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn what_is_worth_waiting_for_is_told() {
    let fake = serving(|_, _| Reply::new(429, "").header("retry-after", "3600"));
    let error = Root::new()
        .pull(&fake.reference("app:1"))
        .await
        .unwrap_err();
    assert_eq!(
        error.hint().as_deref(),
        Some("try again in 3600 s, or log in")
    );
    assert_eq!(
        fake.log()
            .iter()
            .filter(|r| r.path.contains("manifests"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_registry_that_is_down_is_unreachable() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let root = Root::new();
    let error = root
        .pull(&format!("127.0.0.1:{port}/app"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        whole(&error).contains("Connection refused"),
        "{}",
        whole(&error)
    );
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_digest_in_the_reference_is_held_to() {
    let fake = Fake::new(|request, honest| {
        if request.path.contains("/manifests/sha256:") {
            return Reply::new(200, TestImage::with_file("other", b"x").manifest);
        }
        honest
    });
    fake.put("app", "1", &sample());
    let root = Root::new();
    let reference = fake.reference(&format!("app@{}", sample().digest()));
    let error = root.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{}", whole(&error));
    root.assert_nothing_published();
}

#[tokio::test]
async fn a_wrong_diff_id_is_refused() {
    let fake = Fake::honest();
    let archive = tar(&[("file", b"content")]);
    let layer = (
        format!("{OCI_LAYER}+gzip"),
        gzip(&archive),
        Digest::of(b"something else"),
    );
    let config = json!({"os": "linux", "architecture": "amd64"});
    fake.put("app", "1", &TestImage::of(vec![layer], config));
    let root = Root::new();
    let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{}", whole(&error));
    assert!(
        whole(&error).contains("its uncompressed digest is"),
        "{}",
        whole(&error)
    );
    root.assert_nothing_published();
}

#[tokio::test]
async fn bad_layers_are_refused_by_name() {
    let good = tar(&[("ok", b"x")]);
    for (archive, kind, text) in [
        (
            tar(&[("../escape", b"x")]),
            Kind::InvalidImage,
            "layer 2: the layer's entry `../escape`",
        ),
        (good[..512].to_vec(), Kind::InvalidImage, "layer 2:"),
        (b"no tar at all".to_vec(), Kind::InvalidImage, "layer 2:"),
    ] {
        let fake = Fake::honest();
        fake.put("app", "1", &TestImage::new(&[good.clone(), archive]));
        let root = Root::new();
        let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", whole(&error));
        assert!(whole(&error).contains(text), "{}", whole(&error));
        root.assert_nothing_published();
    }
}

#[tokio::test]
async fn limits_are_named() {
    let bomb = TestImage::with_file("zeros", &vec![0; 4 << 20]);
    assert!(bomb.blobs.values().all(|blob| blob.len() < 100_000));
    type Set = fn(&mut ImageOptions);
    let cases: [(&str, Set); 3] = [
        ("max_layer_bytes", |options| {
            options.limits.max_layer_bytes = 1 << 20
        }),
        ("max_download_bytes", |options| {
            options.max_download_bytes = 1000
        }),
        ("max_entries", |options| options.limits.max_entries = 0),
    ];
    for (limit, set) in cases {
        let fake = Fake::honest();
        fake.put("app", "1", &bomb);
        let root = Root::with(set);
        let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge, "{}", whole(&error));
        assert!(
            error.hint().unwrap().contains(limit),
            "{limit}: {}",
            whole(&error)
        );
        root.assert_nothing_published();
    }
}

/// Indexes within each other, `depth` of them, around an image.
fn nested(fake: &Fake, depth: usize) {
    let image = sample();
    fake.put("app", "inner", &image);
    let (mut media_type, mut bytes) = (OCI_MANIFEST, image.manifest);
    for _ in 0..depth {
        bytes = index(&[(media_type, &bytes, None)]);
        media_type = OCI_INDEX;
        fake.put_manifest("app", "1", media_type, &bytes);
    }
}

#[tokio::test]
async fn indexes_may_be_nested_but_not_without_end() {
    for (depth, fine) in [(1, true), (4, true), (5, false), (40, false)] {
        let fake = Fake::honest();
        nested(&fake, depth);
        let root = Root::new();
        match root.pull(&fake.reference("app:1")).await {
            Ok(_) => assert!(fine, "{depth}"),
            Err(error) => {
                assert!(!fine, "{depth}: {}", whole(&error));
                assert_eq!(error.kind(), Kind::InvalidImage);
                assert!(
                    whole(&error).contains("nested more than 4 deep"),
                    "{}",
                    whole(&error)
                );
                root.assert_nothing_published();
            }
        }
    }
}

#[tokio::test]
async fn other_platforms_are_refused_and_listed() {
    let image = |os, architecture| {
        let archive = tar(&[("file", b"x")]);
        let layer = (OCI_LAYER.to_owned(), archive.clone(), Digest::of(&archive));
        TestImage::of(vec![layer], json!({"os": os, "architecture": architecture}))
    };
    let (arm, windows) = (image("linux", "arm64"), image("windows", "amd64"));
    let fake = Fake::honest();
    fake.put("app", "arm", &arm);
    fake.put("app", "windows", &windows);
    let both = index(&[
        (OCI_MANIFEST, &arm.manifest, Some(("linux", "arm64"))),
        (OCI_MANIFEST, &windows.manifest, Some(("windows", "amd64"))),
    ]);
    fake.put_manifest("app", "both", OCI_INDEX, &both);
    for (tag, available) in [
        ("arm", &["linux/arm64"][..]),
        ("windows", &["windows/amd64"]),
        ("both", &["linux/arm64", "windows/amd64"]),
    ] {
        let root = Root::new();
        let error = root
            .pull(&fake.reference(&format!("app:{tag}")))
            .await
            .unwrap_err();
        match &error {
            ImageError::UnsupportedPlatform {
                available: found, ..
            } => {
                assert_eq!(found, available, "{tag}");
            }
            other => panic!("{tag}: {}", whole(other)),
        }
        root.assert_nothing_published();
    }
    assert_eq!(
        fake.blob_requests().len(),
        2,
        "layers were fetched for nothing"
    );
}

#[tokio::test]
async fn the_hosts_variant_is_chosen_from_an_index() {
    let ours = sample();
    let theirs = TestImage::with_file("file", b"marker-of-another");
    let fake = Fake::honest();
    fake.put("app", "a", &theirs);
    fake.put("app", "b", &ours);
    let both = index(&[
        (OCI_MANIFEST, &theirs.manifest, Some(("linux", "arm64"))),
        (OCI_MANIFEST, &ours.manifest, Some(("linux", "amd64"))),
        (OCI_MANIFEST, &theirs.manifest, Some(("unknown", "unknown"))),
    ]);
    fake.put_manifest("app", "1", OCI_INDEX, &both);
    let root = Root::new();
    let imported = root.pull(&fake.reference("app:1")).await.unwrap();
    assert!(base_holds(&imported, "marker-of-the-sample"));
    // The record is of what the tag names.
    assert_eq!(imported.manifest_digest, Some(Digest::of(&both)));
}

#[tokio::test]
async fn a_full_disk_is_called_that() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200k", "none"])
        .arg(place.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mount");
        return;
    }
    let fake = serving(|_, honest| honest);
    let images = banger_image::import::Images::open(place.path(), crate::options(|_| {})).unwrap();
    let outcome = images
        .pull(
            &fake.reference("app:1").parse().unwrap(),
            banger_image::registry::Credentials::Anonymous,
            &banger_image::progress::Progress::none(),
        )
        .await;
    let left = std::fs::read_dir(place.path().join("staging"))
        .unwrap()
        .count();
    drop(images);
    let unmounted = std::process::Command::new("umount")
        .arg("-l")
        .arg(place.path())
        .status();
    assert!(unmounted.unwrap().success());
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{}", whole(&error));
    assert_eq!(left, 0);
}
