//! Local archives: as tools write them, and as nobody should.

use banger_image::config::ImageConfig;
use banger_image::digest::Digest;
use banger_image::error::{ImageError, ImageErrorKind as Kind};
use banger_image::import::{ArchiveKind, Imported};
use banger_image::progress::Progress;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::images::{OCI_INDEX, OCI_MANIFEST, TestImage, descriptor, gzip, header, index, tar};
use crate::{Root, base_holds, whole};

async fn import(
    root: &Root,
    kind: ArchiveKind,
    tag: Option<&str>,
    archive: &[u8],
) -> Result<Imported, ImageError> {
    let mut stream = archive;
    root.images
        .import_archive(
            kind,
            tag,
            "oci-archive:x.tar",
            &mut stream,
            &Progress::none(),
        )
        .await
}

fn image(marker: &str) -> TestImage {
    TestImage::with_file("file", marker.as_bytes())
}

/// An OCI layout of images, each with its name.
fn layout(images: &[(Option<&str>, &TestImage)]) -> Vec<(String, Vec<u8>)> {
    let entries: Vec<_> = images
        .iter()
        .map(|(name, image)| {
            let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
            if let Some(name) = name {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            }
            entry
        })
        .collect();
    let mut members = vec![
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        (
            "index.json".to_owned(),
            json!({"schemaVersion": 2, "manifests": entries})
                .to_string()
                .into_bytes(),
        ),
    ];
    for (_, image) in images {
        for bytes in image.blobs.values().chain([&image.manifest]) {
            let blob = (blob_name(bytes), bytes.clone());
            if !members.contains(&blob) {
                members.push(blob);
            }
        }
    }
    members
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

fn packed(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<_> = members
        .iter()
        .map(|(n, b)| (n.as_str(), b.as_slice()))
        .collect();
    tar(&members)
}

#[tokio::test]
async fn members_may_come_in_any_order_and_packed() {
    let image = image("marker-one");
    let mut members = layout(&[(Some("v1"), &image)]);
    let forwards = packed(&members);
    members.reverse();
    let backwards = packed(&members);
    let dotted: Vec<_> = members
        .iter()
        .map(|(n, b)| (format!("./{n}"), b.clone()))
        .collect();
    for archive in [
        gzip(&forwards),
        zstd::encode_all(&forwards[..], 1).unwrap(),
        forwards,
        backwards,
        packed(&dotted),
    ] {
        let root = Root::new();
        let imported = import(&root, ArchiveKind::OciArchive, None, &archive).await;
        let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
        assert!(base_holds(&imported, "marker-one"));
        assert_eq!(imported.manifest_digest, Some(image.digest()));
        assert_eq!(imported.source, "oci-archive:x.tar");
        assert_eq!(root.files("staging").len(), 0);
    }
}

#[tokio::test]
async fn one_of_several_images_is_selected_by_tag() {
    let (one, two) = (image("marker-one"), image("marker-two"));
    let archive = packed(&layout(&[
        (Some("v1"), &one),
        (Some("quay.io/app:v2"), &two),
    ]));
    let root = Root::new();
    for (tag, marker) in [
        ("v1", "marker-one"),
        ("v2", "marker-two"),
        ("quay.io/app:v2", "marker-two"),
    ] {
        let imported = import(&root, ArchiveKind::OciArchive, Some(tag), &archive)
            .await
            .unwrap();
        assert!(base_holds(&imported, marker), "{tag}");
    }
    let error = import(&root, ArchiveKind::OciArchive, Some("v3"), &archive)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        error.to_string(),
        "the archive has no image tagged \"v3\"; it has quay.io/app:v2, v1"
    );
    let error = import(&root, ArchiveKind::OciArchive, None, &archive)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(
        error
            .to_string()
            .ends_with("several images: quay.io/app:v2, v1"),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn an_index_in_a_layout_is_followed() {
    let image = image("marker-one");
    let inner = index(&[
        (OCI_MANIFEST, b"{}", Some(("linux", "arm64"))),
        (OCI_MANIFEST, &image.manifest, Some(("linux", "amd64"))),
    ]);
    let outer = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_INDEX, &inner)]});
    let mut members = layout(&[(None, &image)]);
    members[1].1 = outer.to_string().into_bytes();
    members.push((blob_name(&inner), inner.clone()));
    let root = Root::new();
    let imported = import(&root, ArchiveKind::OciArchive, None, &packed(&members))
        .await
        .unwrap();
    assert!(base_holds(&imported, "marker-one"));
    assert_eq!(imported.manifest_digest, Some(Digest::of(&inner)));
}

/// `docker save` of old: layers uncompressed in directories of their own.
fn docker(tags: Value, image_layer: &[u8]) -> Vec<(String, Vec<u8>)> {
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(image_layer).to_string()]},
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": ["abc/layer.tar"]}]);
    vec![
        ("abc/VERSION".into(), b"1.0".to_vec()),
        ("abc/layer.tar".into(), image_layer.to_vec()),
        (config_name, config),
        ("manifest.json".into(), manifest.to_string().into_bytes()),
    ]
}

#[tokio::test]
async fn docker_archives_of_old_and_new_are_read() {
    let layer = tar(&[("file", b"marker-docker")]);
    let old = packed(&docker(json!(["app:v1"]), &layer));
    // Docker 25 and later: an OCI layout which also has a manifest.json.
    let image = image("marker-docker");
    let mut both = layout(&[(Some("v1"), &image)]);
    let config = image
        .blobs
        .keys()
        .find(|digest| !image.layers.contains(digest))
        .unwrap();
    let manifest = json!([{
        "Config": format!("blobs/sha256/{}", config.hex()),
        "RepoTags": null,
        "Layers": [format!("blobs/sha256/{}", image.layers[0].hex())],
    }]);
    both.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    let new = packed(&both);
    for (kind, archive, tag) in [
        (ArchiveKind::DockerArchive, &old, None),
        (ArchiveKind::DockerArchive, &old, Some("v1")),
        (
            ArchiveKind::DockerArchive,
            &old,
            Some("docker.io/library/app:v1"),
        ),
        (ArchiveKind::DockerArchive, &new, None),
        (ArchiveKind::OciArchive, &new, Some("v1")),
    ] {
        let root = Root::new();
        let imported = import(&root, kind, tag, archive).await;
        let imported =
            imported.unwrap_or_else(|error| panic!("{kind:?} {tag:?}: {}", whole(&error)));
        assert!(base_holds(&imported, "marker-docker"));
    }
    let root = Root::new();
    let imported = import(&root, ArchiveKind::DockerArchive, None, &old)
        .await
        .unwrap();
    assert_eq!(imported.config.cmd, ["sh"]);
    assert_eq!(imported.manifest_digest, None);
}

#[tokio::test]
async fn linked_layers_of_a_docker_archive_are_found() {
    let layer = tar(&[("file", b"marker-linked")]);
    for (kind, target) in [(b'2', "../store/x.tar"), (b'1', "store/x.tar")] {
        let mut members = docker(json!(["app:v1"]), &layer);
        members.retain(|(name, _)| name != "abc/layer.tar");
        members.push(("store/x.tar".into(), layer.clone()));
        let mut archive = header("abc/layer.tar", kind, target, 0).to_vec();
        archive.extend(packed(&members));
        let root = Root::new();
        let imported = import(&root, ArchiveKind::DockerArchive, None, &archive).await;
        let imported = imported.unwrap_or_else(|error| panic!("{target}: {}", whole(&error)));
        assert!(base_holds(&imported, "marker-linked"));
    }
}

fn without(mut members: Vec<(String, Vec<u8>)>, name: &str) -> Vec<u8> {
    let before = members.len();
    members.retain(|(member, _)| member != name);
    assert_eq!(members.len() + 1, before, "{name}");
    packed(&members)
}

#[tokio::test]
async fn broken_archives_are_refused_for_what_they_lack() {
    use ArchiveKind::{DockerArchive, OciArchive, RootfsTar};
    let image = image("marker");
    let config = image
        .blobs
        .keys()
        .find(|digest| !image.layers.contains(digest))
        .unwrap();
    let oci = || layout(&[(Some("v1"), &image)]);
    let layer = tar(&[("file", b"marker")]);
    let docker = || docker(json!(["app:v1"]), &layer);
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());

    let mut flipped = oci();
    let place = flipped
        .iter()
        .position(|(name, _)| *name == blob(&image.layers[0]))
        .unwrap();
    flipped[place].1[30] ^= 1;
    let mut doubled = oci();
    doubled.push(doubled[0].clone());
    let mut escaping = oci();
    escaping.push(("../../evil".into(), b"x".to_vec()));
    let mut no_index = oci();
    no_index[1].1 = image.manifest.clone();
    let mut empty = oci();
    empty[1].1 = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let mut wrong_layer = docker();
    wrong_layer[1].1 = tar(&[("file", b"other")]);
    let mut device = header("dev", b'3', "", 0).to_vec();
    device.extend(packed(&oci()));
    let mut loop_archive = header("abc/layer.tar", b'2', "layer.tar", 0).to_vec();
    loop_archive.extend(without(docker(), "abc/layer.tar"));
    let whole_archive = packed(&oci());
    let cut = whole_archive[..whole_archive.len() / 2].to_vec();

    for (name, kind, archive, expected, text) in [
        (
            "nothing",
            OciArchive,
            vec![],
            Kind::InvalidImage,
            "the archive",
        ),
        (
            "no archive",
            OciArchive,
            b"hello".repeat(300),
            Kind::InvalidImage,
            "not a tar archive",
        ),
        (
            "cut",
            OciArchive,
            cut,
            Kind::InvalidImage,
            "not a tar archive: the archive",
        ),
        (
            "gzip cut",
            OciArchive,
            gzip(&whole_archive)[..300].to_vec(),
            Kind::InvalidImage,
            "decompress",
        ),
        (
            "no index",
            OciArchive,
            without(oci(), "index.json"),
            Kind::InvalidImage,
            "has no index.json",
        ),
        (
            "index is a manifest",
            OciArchive,
            packed(&no_index),
            Kind::InvalidImage,
            "is not an index",
        ),
        (
            "empty index",
            OciArchive,
            packed(&empty),
            Kind::InvalidImage,
            "has no image",
        ),
        (
            "no layer",
            OciArchive,
            without(oci(), &blob(&image.layers[0])),
            Kind::InvalidImage,
            "has no blobs/sha256/",
        ),
        (
            "no config",
            OciArchive,
            without(oci(), &blob(config)),
            Kind::InvalidImage,
            "has no blobs/sha256/",
        ),
        (
            "no manifest",
            OciArchive,
            without(oci(), &blob(&image.digest())),
            Kind::InvalidImage,
            "has no blobs/sha256/",
        ),
        (
            "changed blob",
            OciArchive,
            packed(&flipped),
            Kind::Corrupt,
            "its digest is",
        ),
        (
            "two of a name",
            OciArchive,
            packed(&doubled),
            Kind::InvalidImage,
            "is there twice",
        ),
        (
            "escape",
            OciArchive,
            packed(&escaping),
            Kind::InvalidImage,
            "leads out of the archive",
        ),
        (
            "device",
            OciArchive,
            device,
            Kind::InvalidImage,
            "is neither file nor link",
        ),
        (
            "other kind",
            DockerArchive,
            packed(&oci()),
            Kind::InvalidImage,
            "has no manifest.json",
        ),
        (
            "other kind",
            OciArchive,
            packed(&docker()),
            Kind::InvalidImage,
            "has no index.json",
        ),
        (
            "docker layer",
            DockerArchive,
            without(docker(), "abc/layer.tar"),
            Kind::InvalidImage,
            "has no abc/layer.tar",
        ),
        (
            "docker loop",
            DockerArchive,
            loop_archive,
            Kind::InvalidImage,
            "leads nowhere",
        ),
        (
            "docker diff id",
            DockerArchive,
            packed(&wrong_layer),
            Kind::Corrupt,
            "its uncompressed digest",
        ),
        (
            "rootfs",
            RootfsTar,
            b"hello".repeat(300),
            Kind::InvalidImage,
            "layer 1",
        ),
        (
            "rootfs",
            RootfsTar,
            tar(&[("../x", b"")]),
            Kind::InvalidImage,
            "`..`",
        ),
        (
            "rootfs cut",
            RootfsTar,
            layer[..600].to_vec(),
            Kind::InvalidImage,
            "layer 1",
        ),
    ] {
        let root = Root::new();
        let Err(error) = import(&root, kind, None, &archive).await else {
            panic!("{name}: it was accepted");
        };
        assert_eq!(error.kind(), expected, "{name}: {}", whole(&error));
        assert!(whole(&error).contains(text), "{name}: {}", whole(&error));
        root.assert_nothing_published();
    }
}

#[tokio::test]
async fn limits_hold_for_archives_too() {
    let archive = packed(&layout(&[(None, &image("marker"))]));
    let root = Root::with(|options| options.max_download_bytes = 2000);
    let error = import(&root, ArchiveKind::OciArchive, None, &archive)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{}", whole(&error));
    root.assert_nothing_published();
}

#[tokio::test]
async fn a_stream_that_fails_is_told_apart_from_a_bad_archive() {
    for kind in [ArchiveKind::OciArchive, ArchiveKind::RootfsTar] {
        let archive = tar(&[("file", &[7; 5000])]);
        let mut stream = broken_stream(archive[..2000].to_vec());
        let root = Root::new();
        let error = root
            .images
            .import_archive(kind, None, "x", &mut stream, &Progress::none())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::SourceBroken, "{}", whole(&error));
        assert!(
            whole(&error).contains("connection reset"),
            "{}",
            whole(&error)
        );
        root.assert_nothing_published();
    }
}

/// Some bytes, then an error.
fn broken_stream(bytes: Vec<u8>) -> impl tokio::io::AsyncRead + Unpin {
    struct Failing(Vec<u8>);
    impl tokio::io::AsyncRead for Failing {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
            }
            let count = self.0.len().min(buffer.remaining());
            buffer.put_slice(&self.0[..count]);
            self.0.drain(..count);
            std::task::Poll::Ready(Ok(()))
        }
    }
    Failing(bytes)
}

#[tokio::test]
async fn a_rootfs_is_published_only_when_its_source_agrees() {
    let archive = gzip(&tar(&[("file", b"marker-rootfs")]));
    let root = Root::new();
    let config = ImageConfig {
        env: vec!["PATH=/bin".into()],
        ..ImageConfig::default()
    };
    let stage = async || {
        let (mut client, mut stream) = tokio::io::duplex(100);
        let send = async {
            client.write_all(&archive).await.unwrap();
            drop(client);
        };
        let none = Progress::none();
        let stage = root
            .images
            .stage_rootfs(config.clone(), "catalog:x", &mut stream, &none);
        tokio::join!(stage, send).0.unwrap()
    };
    drop(stage().await);
    root.assert_nothing_published();

    let imported = stage().await.publish().await.unwrap();
    assert!(base_holds(&imported, "marker-rootfs"));
    assert_eq!(imported.config, config);
    assert_eq!(
        (imported.source.as_str(), imported.manifest_digest),
        ("catalog:x", None)
    );
    // The same again is the same base.
    let again = stage().await.publish().await.unwrap();
    assert_eq!(again.base_digest, imported.base_digest);
    assert_eq!(
        (root.files("bases").len(), root.files("staging").len()),
        (1, 0)
    );
}
