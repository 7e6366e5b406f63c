//! Images and kernels over the API: names, users, what deletion takes away.

use banger_protocol::api::image::{Image, ImageList};
use banger_protocol::api::kernel::{Kernel, KernelList};
use banger_protocol::api::operation::{OperationResult, OperationState};
use banger_protocol::error::ErrorKind;
use hyper::StatusCode;
use serde_json::json;

use crate::support::client::{Answer, Client, full};
use crate::support::{KERNEL, World, tar};
use crate::vm_support::have_mke2fs;

fn image(answer: &Answer) -> Image {
    let ended = answer.ended();
    match ended.result {
        Some(OperationResult::Image { image }) => *image,
        _ => panic!("{ended:?}"),
    }
}

fn failed(answer: &Answer) -> banger_protocol::error::ApiError {
    let ended = answer.ended();
    assert_eq!(ended.state, OperationState::Failed);
    ended.error.unwrap()
}

async fn names(client: &Client) -> Vec<String> {
    let list: ImageList = client.get("/v1/images").await.ok();
    list.images
        .into_iter()
        .map(|image| image.name.to_string())
        .collect()
}

fn bases(world: &World) -> usize {
    world.files("images/bases").len()
}

#[tokio::test]
async fn a_name_belongs_to_its_source() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let first = image(&client.import("app", "rootfs:a", tar("f", b"one")).await);
    assert_eq!(first.source, "rootfs:a");
    assert_eq!(first.digest, first.base_digest);
    assert_eq!(bases(&world), 1);

    // The same source again moves the name, and what it meant before is gone.
    let second = image(&client.import("app", "rootfs:a", tar("f", b"two")).await);
    assert_ne!(second.base_digest, first.base_digest);
    assert_eq!(bases(&world), 1);
    let shown: Image = client.get("/v1/images/app").await.ok();
    assert_eq!(shown, second);

    let error = failed(&client.import("app", "rootfs:b", tar("f", b"three")).await);
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert!(error.hint.unwrap().contains("--name"));
    assert_eq!(bases(&world), 1, "what was refused left nothing");

    // Two names for one base: it goes with the last.
    image(&client.import("twin", "rootfs:b", tar("f", b"two")).await);
    assert_eq!(names(&client).await, ["app", "twin"]);
    assert_eq!(bases(&world), 1);
    assert_eq!(
        client.delete("/v1/images/app").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(bases(&world), 1);
    client.delete("/v1/images/twin").await;
    assert_eq!(bases(&world), 0);
    let error = client.delete("/v1/images/twin").await.error();
    assert_eq!(error.kind, ErrorKind::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn broken_archives_are_refused_and_leave_nothing() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let before = world.files("images");
    let mut truncated = tar("f", &[1; 5000]);
    truncated.truncate(2000);
    for (archive, kind) in [
        (b"not a tar archive".repeat(100), ErrorKind::InvalidImage),
        (truncated, ErrorKind::InvalidImage),
        (tar("../../etc/passwd", b"x"), ErrorKind::InvalidImage),
    ] {
        let error = failed(&client.import("bad", "rootfs:bad", archive).await);
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!(world.files("images"), before);
    }
    let oci = "/v1/images/import?kind=oci-archive&name=bad&source=oci-archive:x";
    let request = client.request("POST", oci, crate::support::client::full(tar("f", b"x")));
    let error = failed(&client.whole(request).await);
    assert_eq!(error.kind, ErrorKind::InvalidImage, "{error}");
    assert_eq!(world.files("images"), before);
    assert_eq!(names(&client).await, [""; 0]);
    daemon.stop().await;
}

#[tokio::test]
async fn limits_of_the_configuration_hold() {
    let mut world = World::new();
    world
        .config
        .push_str("max_base_bytes = \"1M\"\nmax_entries = 10\n");
    let daemon = world.start().await;
    let client = daemon.client();
    // Not zeros: holes cost nothing.
    let large: Vec<u8> = (0..2 << 20)
        .map(|byte: u32| (byte % 251) as u8 + 1)
        .collect();
    let error = failed(&client.import("big", "rootfs:big", tar("f", &large)).await);
    assert_eq!(error.kind, ErrorKind::TooLarge, "{error}");
    assert!(error.hint.unwrap().contains("max_base_bytes"));
    assert_eq!(bases(&world), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_still_sends() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let archive = vec![1u8; 4 << 20];
    // More than once: what is lost without care depends on who is faster.
    for _ in 0..10 {
        for (path, status, kind) in [
            (
                "/v1/images/import?kind=rootfs&name=x&source=rootfs:x&kernel=nobodys",
                404,
                ErrorKind::NotFound,
            ),
            (
                "/v1/images/import?kind=rootfs&name=X&source=rootfs:x",
                400,
                ErrorKind::InvalidArgument,
            ),
        ] {
            let request = client.request("POST", path, full(archive.clone()));
            let answer = client.whole(request).await;
            assert_eq!(answer.status, status, "{}", answer.text());
            assert_eq!(answer.error().kind, kind);
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_daemon_opens_no_file_that_a_client_names() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let there = world.root.path().join("there");
    std::fs::write(&there, tar("f", b"x")).unwrap();
    let missing = world.root.path().join("missing");
    for prefix in [
        "",
        "oci:",
        "oci-archive:",
        "docker-archive:",
        "rootfs:",
        "file://",
    ] {
        // Nor does the answer tell whether there is such a file.
        let answers = [&there, &missing].map(|path| format!("{prefix}{}", path.display()));
        for body in [
            |text: &str| ("/v1/images/pull", json!({ "reference": text })),
            |text: &str| ("/v1/vms", json!({ "image": text })),
        ] {
            let mut told = Vec::new();
            for text in &answers {
                let (path, body) = body(text);
                let answer = client.post(path, body).await;
                assert_eq!(
                    answer.status,
                    StatusCode::BAD_REQUEST,
                    "{text}: {}",
                    answer.text()
                );
                let error = answer.error();
                assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
                told.push(answer.text().replace(text.as_str(), ""));
            }
            assert_eq!(told[0], told[1]);
        }
    }
    assert_eq!(names(&client).await, [""; 0]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_killed_daemons_litter_is_swept_at_the_next_start() {
    let world = World::new();
    let daemon = world.start().await;
    image(
        &daemon
            .client()
            .import("app", "rootfs:a", tar("f", b"x"))
            .await,
    );
    daemon.stop().await;
    let clean = world.files("images");
    let state = world.state();
    std::fs::write(state.join("images/staging/base-half"), "x").unwrap();
    std::fs::write(
        state.join(format!("images/bases/{}.erofs", "0".repeat(64))),
        "published, but its record was never written",
    )
    .unwrap();
    std::fs::create_dir_all(state.join("kernels/.staging/x")).unwrap();
    let daemon = world.start().await;
    assert_eq!(world.files("images"), clean);
    assert_eq!(names(&daemon.client()).await, ["app"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_vm_keeps_the_image_that_is_deleted_under_it() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    image(&client.import("tiny", "rootfs:a", tar("f", b"x")).await);
    let created = client.post("/v1/vms", json!({ "name": "web" })).await;
    assert_eq!(created.ended().state, OperationState::Succeeded);
    let shown: Image = client.get("/v1/images/tiny").await.ok();
    assert_eq!(shown.used_by, ["web"]);
    client.delete("/v1/images/tiny").await;
    assert_eq!(bases(&world), 0);
    assert_eq!(
        client.poke("/v1/vms/web/stop").await.ended().state,
        OperationState::Succeeded
    );
    assert_eq!(
        client.poke("/v1/vms/web/start").await.ended().state,
        OperationState::Succeeded,
        "its base is its own"
    );
    client.delete("/v1/vms/web").await.ended();
    daemon.stop().await;
}

#[tokio::test]
async fn pruning_tells_before_it_takes() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    image(&client.import("app", "rootfs:a", tar("f", b"x")).await);
    let blob = world
        .state()
        .join("images/blobs/sha256")
        .join("1".repeat(64));
    std::fs::write(&blob, vec![1; 10_000]).unwrap();
    for (dry_run, remains) in [(true, true), (false, false)] {
        let ended = client
            .post("/v1/images/prune", json!({ "dry_run": dry_run }))
            .await
            .ended();
        let Some(OperationResult::Pruned { report }) = ended.result else {
            panic!("{ended:?}");
        };
        assert_eq!((report.blobs, report.bases), (1, 0));
        assert!(report.bytes >= 10_000);
        assert_eq!(blob.exists(), remains);
    }
    assert_eq!(bases(&world), 1);
    daemon.stop().await;
}

/// Pruning takes a while where there is much to prune; what gets its name meanwhile is not its.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_imported_while_others_are_pruned_keeps_its_base() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let blobs = world.state().join("images/blobs/sha256");
    for round in 0..8 {
        for number in 0..3000 {
            std::fs::write(blobs.join(format!("{number:064}")), b"x").unwrap();
        }
        let name = format!("app{round}");
        let archive = tar("f", name.as_bytes());
        let import = async {
            image(
                &client
                    .import(&name, &format!("rootfs:{name}"), archive)
                    .await,
            );
        };
        let prune = client.post("/v1/images/prune", json!({ "dry_run": false }));
        let (pruned, ()) = tokio::join!(prune, import);
        assert_eq!(pruned.ended().state, OperationState::Succeeded);
        assert_eq!(bases(&world), round + 1, "{name} is a name for nothing");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn registries_that_are_not_there_are_told_apart() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let reference = format!("127.0.0.1:{port}/app:v1");
    let error = failed(
        &client
            .post("/v1/images/pull", json!({ "reference": reference }))
            .await,
    );
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(
        error.message.contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    let error = failed(&client.post("/v1/vms", json!({ "image": reference })).await);
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn kernels_are_listed_with_what_could_be_pulled() {
    let world = World::new();
    let daemon = world.start().await;
    let client = daemon.client();
    let list: KernelList = client.get("/v1/kernels").await.ok();
    assert_eq!(list.kernels.len(), 1);
    assert!(list.kernels[0].default && list.kernels[0].name.as_str() == KERNEL);
    assert!(list.available.iter().all(|kernel| !kernel.pulled));
    assert!(!list.available.is_empty());
    let shown: Kernel = client.get(&format!("/v1/kernels/{KERNEL}")).await.ok();
    assert_eq!(shown, list.kernels[0]);

    let error = failed(
        &client
            .post("/v1/kernels/pull", json!({ "name": "no-such" }))
            .await,
    );
    assert_eq!(error.kind, ErrorKind::NotFound);
    let request = client.request(
        "POST",
        "/v1/kernels/import?name=mine",
        crate::support::client::full(tar("README", b"no kernel")),
    );
    let error = failed(&client.whole(request).await);
    assert_eq!(error.kind, ErrorKind::InvalidImage, "{error}");
    let taken = format!("/v1/kernels/import?name={KERNEL}");
    let request = client.request("POST", &taken, crate::support::client::full(tar("x", b"")));
    let error = failed(&client.whole(request).await);
    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");

    assert_eq!(
        client.delete(&format!("/v1/kernels/{KERNEL}")).await.status,
        StatusCode::NO_CONTENT
    );
    let list: KernelList = client.get("/v1/kernels").await.ok();
    assert_eq!(list.kernels, []);
    daemon.stop().await;
}
