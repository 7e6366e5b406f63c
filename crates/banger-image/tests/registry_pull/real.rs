//! Debian's docker-registry, filled by skopeo with images that umoci made.

use std::path::{Path, PathBuf};
use std::process::Command;

use banger_image::digest::Digest;
use banger_image::error::ImageErrorKind as Kind;
use banger_image::import::ArchiveKind;
use banger_image::progress::Progress;
use banger_image::registry::Credentials;

use serde_json::json;

use crate::images::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST, TestImage, descriptor, index, tar};
use crate::registry::{Registry, have, run};
use crate::{Root, base_holds, whole};

/// `s3cret` under bcrypt, as `htpasswd -B` writes it.
const HTPASSWD: &str = "ann:$2y$04$aVdz9S1mVNNQN8qjrCrN7.xs4y5R/obBlZXkgaRCM6UGWT6JhrwQ2\n";

/// An OCI layout with one image of two layers, the second of which replaces and removes.
struct Layout {
    directory: tempfile::TempDir,
}

impl Layout {
    fn make() -> Layout {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let image = path.join("layout");
        let image_tag = format!("{}:v1", image.display());
        let umoci = |arguments: &[&str]| run("umoci", arguments);
        let first = path.join("first");
        std::fs::create_dir_all(first.join("etc")).unwrap();
        std::fs::write(first.join("etc/kept"), "marker-kept").unwrap();
        std::fs::write(first.join("etc/hidden"), "marker-hidden".repeat(1000)).unwrap();
        std::os::unix::fs::symlink("kept", first.join("etc/link")).unwrap();
        let second = path.join("second");
        std::fs::create_dir_all(second.join("etc")).unwrap();
        std::fs::write(second.join("etc/added"), "marker-added").unwrap();
        // umoci 0.4 does not pad a layer whose last member is a file.
        std::os::unix::fs::symlink("added", second.join("etc/zlink")).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        umoci(&["init", "--layout", &text(&image)]);
        umoci(&["new", "--image", &image_tag]);
        umoci(&[
            "insert",
            "--rootless",
            "--image",
            &image_tag,
            &text(&first.join("etc")),
            "/etc",
        ]);
        umoci(&[
            "insert",
            "--rootless",
            "--image",
            &image_tag,
            "--whiteout",
            "/etc/hidden",
        ]);
        umoci(&[
            "insert",
            "--rootless",
            "--image",
            &image_tag,
            &text(&second.join("etc")),
            "/etc",
        ]);
        umoci(&[
            "config",
            "--image",
            &image_tag,
            "--config.entrypoint",
            "/bin/app",
            "--config.cmd",
            "serve",
            "--config.env",
            "MODE=test",
            "--config.user",
            "app:app",
            "--config.workingdir",
            "/srv",
            "--config.volume",
            "/data",
            "--config.stopsignal",
            "SIGQUIT",
            "--config.label",
            "k=v",
            "--config.exposedports",
            "80/tcp",
            "--architecture",
            "amd64",
            "--os",
            "linux",
        ]);
        Layout { directory }
    }

    fn source(&self) -> String {
        format!("oci:{}:v1", self.directory.path().join("layout").display())
    }

    /// The same image with its layers not compressed.
    fn plain(&self) -> String {
        self.copied(&self.source(), "plain", &["--dest-decompress"])
    }

    /// The same image with zstd layers; only what is not compressed is compressed anew.
    fn zstd(&self) -> String {
        let options = ["--dest-compress", "--dest-compress-format", "zstd"];
        self.copied(&self.plain(), "zstd", &options)
    }

    fn copied(&self, source: &str, name: &str, options: &[&str]) -> String {
        let copy = format!("dir:{}", self.file(name).display());
        let common = ["copy", "-q", "--insecure-policy"];
        run(
            "skopeo",
            common.iter().chain(options).copied().chain([source, &copy]),
        );
        copy
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

#[tokio::test]
async fn images_in_every_dress_are_the_same_base() {
    if !have(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let (registry, layout) = (Registry::start(), Layout::make());
    let source = layout.source();
    registry.push(&source, "app:oci", &[]);
    registry.push(&source, "app:docker", &["--format", "v2s2"]);
    registry.push(&layout.plain(), "app:plain", &["--preserve-digests"]);
    registry.push(&layout.zstd(), "app:zstd", &["--preserve-digests"]);

    for (tag, layer_type) in [
        ("oci", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "docker",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("plain", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let manifest = registry.manifest(&format!("app:{tag}"));
        let quoted = format!("\"{layer_type}\"");
        assert!(manifest.contains(&quoted), "{tag}: {manifest}");
    }
    let root = Root::new();
    let mut bases = Vec::new();
    for tag in ["oci", "docker", "zstd", "plain"] {
        let imported = root.pull(&registry.reference(&format!("app:{tag}"))).await;
        let imported = imported.unwrap_or_else(|error| panic!("{tag}: {}", whole(&error)));
        bases.push(imported.base_digest);
        let config = &imported.config;
        assert_eq!(config.entrypoint, ["/bin/app"]);
        assert_eq!(config.cmd, ["serve"]);
        assert!(
            config.env.contains(&"MODE=test".to_owned()),
            "{:?}",
            config.env
        );
        assert_eq!(
            (config.user.as_str(), config.workdir.as_str()),
            ("app:app", "/srv")
        );
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.stop_signal, "SIGQUIT");
        assert_eq!(config.labels["k"], "v");
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert!(base_holds(&imported, "marker-kept") && base_holds(&imported, "marker-added"));
        assert!(!base_holds(&imported, "marker-hidden"));
        // By digest, the registry gives the same.
        let by_digest = format!("app@{}", imported.manifest_digest.unwrap());
        let same = root.pull(&registry.reference(&by_digest)).await.unwrap();
        assert_eq!(same.manifest_digest, imported.manifest_digest);
    }
    assert!(bases.windows(2).all(|pair| pair[0] == pair[1]), "{bases:?}");
    assert_eq!(root.files("bases").len(), 1);
    assert_eq!(root.files("staging").len(), 0);

    for missing in ["app:no", "other:oci", &format!("app@{}", Digest::of(b"x"))] {
        let error = root.pull(&registry.reference(missing)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{missing}: {}", whole(&error));
    }
}

#[tokio::test]
async fn every_dress_makes_the_same_bytes() {
    if !have(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let (registry, layout) = (Registry::start(), Layout::make());
    registry.push(&layout.source(), "app:oci", &[]);
    registry.push(&layout.zstd(), "app:zstd", &["--preserve-digests"]);
    let archive = layout.file("oci.tar");
    let destination = format!("oci-archive:{}:v1", archive.display());
    run(
        "skopeo",
        [
            "copy",
            "-q",
            "--insecure-policy",
            &layout.source(),
            &destination,
        ],
    );
    let saved = layout.file("docker.tar");
    let destination = format!("docker-archive:{}:app:v1", saved.display());
    run(
        "skopeo",
        [
            "copy",
            "-q",
            "--insecure-policy",
            &layout.source(),
            &destination,
        ],
    );

    let mut bases = Vec::new();
    for tag in ["oci", "zstd"] {
        let root = Root::new();
        let imported = root
            .pull(&registry.reference(&format!("app:{tag}")))
            .await
            .unwrap();
        bases.push(std::fs::read(&imported.base).unwrap());
    }
    for (kind, file, tag) in [
        (ArchiveKind::OciArchive, &archive, None),
        (ArchiveKind::OciArchive, &archive, Some("v1")),
        (ArchiveKind::DockerArchive, &saved, None),
        (ArchiveKind::DockerArchive, &saved, Some("app:v1")),
    ] {
        let root = Root::new();
        let mut stream = tokio::fs::File::open(file).await.unwrap();
        let imported = root
            .images
            .import_archive(kind, tag, "archive", &mut stream, &Progress::none())
            .await;
        let imported = imported.unwrap_or_else(|error| panic!("{kind:?}: {}", whole(&error)));
        assert_eq!(imported.config.entrypoint, ["/bin/app"]);
        bases.push(std::fs::read(&imported.base).unwrap());
    }
    assert!(bases.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_registry_with_passwords_lets_in_who_knows_one() {
    if !have(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let registry = Registry::with(|directory| {
        let file = directory.join("htpasswd");
        std::fs::write(&file, HTPASSWD).unwrap();
        format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        )
    });
    let layout = Layout::make();
    registry.push(&layout.source(), "app:v1", &["--dest-creds", "ann:s3cret"]);
    let root = Root::new();
    let reference = registry.reference("app:v1");
    let password = |password: &str| Credentials::Password {
        username: "ann".into(),
        password: password.into(),
    };
    for credentials in [Credentials::Anonymous, password("wrong")] {
        let error = root.pull_as(&reference, credentials).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{}", whole(&error));
    }
    root.assert_nothing_published();
    let imported = root.pull_as(&reference, password("s3cret")).await;
    let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert!(base_holds(&imported, "marker-kept"));
}

#[tokio::test]
async fn the_hosts_variant_is_taken_from_a_pushed_index() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let image = |architecture: &str| {
        let archive = tar(&[("file", format!("marker-{architecture}").as_bytes())]);
        let layer = (OCI_LAYER.to_owned(), archive.clone(), Digest::of(&archive));
        TestImage::of(
            vec![layer],
            json!({"os": "linux", "architecture": architecture}),
        )
    };
    let (ours, theirs) = (image("amd64"), image("arm64"));
    let both = index(&[
        (OCI_MANIFEST, &theirs.manifest, Some(("linux", "arm64"))),
        (OCI_MANIFEST, &ours.manifest, Some(("linux", "amd64"))),
    ]);
    let blobs = directory.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let documents = [&both, &ours.manifest, &theirs.manifest];
    for bytes in ours
        .blobs
        .values()
        .chain(theirs.blobs.values())
        .chain(documents)
    {
        std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    }
    let outer = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_INDEX, &both)]});
    std::fs::write(directory.path().join("index.json"), outer.to_string()).unwrap();
    std::fs::write(
        directory.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    registry.push(
        &format!("oci:{}", directory.path().display()),
        "app:both",
        &["--all"],
    );

    let root = Root::new();
    let imported = root.pull(&registry.reference("app:both")).await;
    let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert!(base_holds(&imported, "marker-amd64"));
    let pushed = registry.manifest("app:both");
    assert!(pushed.contains(OCI_INDEX), "{pushed}");
    assert_eq!(
        imported.manifest_digest,
        Some(Digest::of(pushed.as_bytes()))
    );
}

/// Set for the process that trusts one certificate more: the reference it pulls.
const TRUSTING: &str = "BANGER_TEST_TRUSTING";

#[tokio::test]
async fn https_is_spoken_where_the_registry_does_and_is_trusted() {
    if !have(&["docker-registry", "skopeo", "umoci", "openssl"]) {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let (key, certificate) = (keys.path().join("key.pem"), keys.path().join("cert.pem"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run(
        "openssl",
        [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &text(&key),
            "-out",
            &text(&certificate),
        ],
    );
    let registry = Registry::with(|_| {
        format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            text(&certificate),
            text(&key)
        )
    });
    registry.push(&Layout::make().source(), "app:v1", &[]);
    let reference = registry.reference("app:v1");

    let error = Root::new().pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        whole(&error).contains("invalid peer certificate"),
        "{}",
        whole(&error)
    );

    // Which certificates are trusted is read once in a process, from its environment.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "real::trusting", "--nocapture"])
        .env("SSL_CERT_FILE", &certificate)
        .env("https_proxy", "http://192.0.2.1:1")
        .env(TRUSTING, reference)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Not a test of its own: the process that [`TRUSTING`] is set for. It has a proxy, too, which
/// must not be asked for what is on this host.
#[tokio::test]
async fn trusting() {
    let Ok(reference) = std::env::var(TRUSTING) else {
        return;
    };
    let root = Root::new();
    let imported = root.pull(&reference).await;
    let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert!(base_holds(&imported, "marker-kept"));
}
