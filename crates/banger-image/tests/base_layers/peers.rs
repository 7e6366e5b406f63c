//! Other programs see in a base what they themselves make of the same layers: `umoci unpack`
//! merges, GNU tar writes archives of a real tree, the host's kernel mounts, `fsck.erofs` checks.

use std::fs;
use std::path::Path;

use banger_image::decompress::Compression;
use banger_image::digest::Digest;
use banger_image::layers::BaseWriter;
use banger_image::limits::Limits;
use tempfile::TempDir;

use crate::compare::{assert_same, tree};
use crate::everything::everything;
use crate::merge::CASES;
use crate::mounted::{Mounted, has, is_root, run};
use crate::script::layer;

/// An OCI layout with one image named `x`.
fn layout(directory: &Path, layers: &[Vec<u8>]) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make a directory");
    let blob = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("write a blob");
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{}"#,
            bytes.len()
        )
    };
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("\"{}\"", Digest::of(layer)))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| blob(layer, "layer.v1.tar") + "}")
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{}}},"layers":[{}]}}"#,
        blob(config.as_bytes(), "config.v1+json"),
        descriptors.join(",")
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{},"annotations":{{"org.opencontainers.image.ref.name":"x"}}}}]}}"#,
        blob(manifest.as_bytes(), "manifest.v1+json")
    );
    fs::write(directory.join("index.json"), index).expect("write the index");
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("write the layout");
}

#[test]
fn umoci_merges_alike() {
    if !has("umoci") || !is_root() {
        return;
    }
    for (name, layers, _) in CASES.iter().filter(|(_, layers, _)| !layers.is_empty()) {
        let directory = TempDir::with_prefix("umoci-").expect("a temporary directory");
        let mut layers: Vec<_> = layers.iter().map(|text| layer(text)).collect();
        // Both make implicit parents, but only one of them with the time of day and an umask; the
        // root is made explicit for the same reason.
        layers.insert(0, layer("d ./"));
        layout(directory.path(), &layers);
        let image = format!("{}:x", directory.path().display());
        let bundle = directory.path().join("bundle");
        let bundle_text = bundle.display().to_string();
        run("umoci", ["unpack", "--image", &image, &bundle_text]);
        let (base, _) = crate::base(&layers).expect("a base");
        let Some(mounted) = Mounted::new(&base) else {
            return;
        };
        assert_same(
            name,
            &tree(&mounted.root(), false),
            &tree(&bundle.join("rootfs"), false),
        );
    }
}

/// umoci writes layers too: `insert` leaves the last file without its padding and the archive
/// without its end marker.
#[test]
fn layers_written_by_umoci_insert() {
    if !has("umoci") || !is_root() {
        return;
    }
    let directory = TempDir::with_prefix("umoci-").expect("a temporary directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let lower = layer("d ./; f etc/passwd=root; f opt/old=1; f srv/gone=1");
    layout(directory.path(), std::slice::from_ref(&lower));
    let image = format!("{}:x", directory.path().display());
    fs::create_dir_all(directory.path().join("tree/sub")).expect("make a directory");
    fs::write(directory.path().join("tree/sub/file"), "odd").expect("write a file");
    fs::write(directory.path().join("one"), "alone").expect("write a file");
    for arguments in [
        &[&at("one"), "/etc/one"][..],
        &["--opaque", &at("tree"), "/opt"],
        &["--whiteout", "/srv/gone"],
    ] {
        run(
            "umoci",
            [&["insert", "--image", &image], arguments].concat(),
        );
    }
    run("umoci", ["unpack", "--image", &image, &at("bundle")]);

    let layers = stored_layers(directory.path());
    assert_eq!(layers.len(), 4);
    let (mut file, mut unpadded) = (Vec::new(), 0);
    let mut writer = BaseWriter::new(&mut file, Limits::default());
    for (bytes, diff_id) in &layers {
        let summary = writer
            .add_layer(&bytes[..], Compression::Auto, Some(*diff_id))
            .expect("a layer of umoci is taken");
        unpadded += u32::from(summary.bytes % 512 != 0);
    }
    writer.finish().expect("the file takes all");
    assert!(unpadded > 0, "what this test is about is not there");
    let Some(mounted) = Mounted::new(&file) else {
        return;
    };
    let unpacked = tree(&directory.path().join("bundle/rootfs"), false);
    assert_same("insert", &tree(&mounted.root(), false), &unpacked);
}

/// The stored layers of the image of a layout, and their diff ids.
fn stored_layers(directory: &Path) -> Vec<(Vec<u8>, Digest)> {
    let read = |path: &str| fs::read(directory.join(path)).expect("read the layout");
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().expect("a digest is a text");
        read(&format!("blobs/{}", digest.replace(':', "/")))
    };
    let json = |bytes: &[u8]| -> serde_json::Value {
        serde_json::from_slice(bytes).expect("a document of the layout is JSON")
    };
    let manifest = json(&blob(&json(&read("index.json"))["manifests"][0]["digest"]));
    let config = json(&blob(&manifest["config"]["digest"]));
    let stored = manifest["layers"].as_array().expect("layers are a list");
    let diff_ids = config["rootfs"]["diff_ids"].as_array();
    stored
        .iter()
        .zip(diff_ids.expect("diff ids are a list"))
        .map(|(layer, diff_id)| {
            let diff_id = diff_id.as_str().expect("a digest is a text");
            (
                blob(&layer["digest"]),
                diff_id.parse().expect("a diff id is a digest"),
            )
        })
        .collect()
}

#[test]
fn gnu_tar_archives_come_out_as_they_went_in() {
    if !has("tar") || !is_root() {
        return;
    }
    let directory = TempDir::with_prefix("tree-").expect("a temporary directory");
    let root = directory.path().join("root");
    fs::create_dir(&root).expect("make a directory");
    everything(&root);
    let attributes = ["--xattrs", "--xattrs-include=*"];
    for options in [
        &["--format=pax"][..],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ] {
        let archive = run(
            "tar",
            ["--numeric-owner", "-cf", "-"]
                .iter()
                .chain(options)
                .chain(&attributes)
                .map(|text| std::ffi::OsString::from(*text))
                .chain(["-C".into(), root.clone().into(), ".".into()]),
        );
        let (base, _) = crate::base(&[archive]).expect("a base");
        let Some(mounted) = Mounted::new(&base) else {
            return;
        };
        let what = format!("{options:?}");
        assert_same(&what, &tree(&mounted.root(), true), &tree(&root, true));
        fsck(&base);
    }
}

/// GNU's own format has neither attributes nor fractions of seconds, so a tree without them.
#[test]
fn gnu_format_comes_out_as_it_went_in() {
    if !has("tar") || !is_root() {
        return;
    }
    let directory = TempDir::with_prefix("tree-").expect("a temporary directory");
    let root = directory.path().join("root");
    fs::create_dir(&root).expect("make a directory");
    everything(&root);
    let tar = |options: &[&str], input: &Path| {
        run(
            "tar",
            options.iter().map(std::ffi::OsString::from).chain([
                "-C".into(),
                input.into(),
                ".".into(),
            ]),
        )
    };
    let archive = tar(
        &["--numeric-owner", "--format=gnu", "--sparse", "-cf", "-"],
        &root,
    );
    let file = directory.path().join("gnu.tar");
    fs::write(&file, &archive).expect("write the archive");
    let copy = directory.path().join("copy");
    fs::create_dir(&copy).expect("make a directory");
    run(
        "tar",
        [
            "-xpf".as_ref(),
            file.as_os_str(),
            "--numeric-owner".as_ref(),
            "-C".as_ref(),
            copy.as_os_str(),
        ],
    );
    let (base, _) = crate::base(&[archive]).expect("a base");
    let Some(mounted) = Mounted::new(&base) else {
        return;
    };
    assert_same("gnu", &tree(&mounted.root(), true), &tree(&copy, true));
}

/// Lists in tar's own text form, with the names left out.
#[test]
fn acl_records_of_gnu_tar() {
    if !has("tar") || !has("setfacl") || !is_root() {
        return;
    }
    let directory = TempDir::with_prefix("acl-").expect("a temporary directory");
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("dir")).expect("make a directory");
    fs::write(root.join("file"), "x").expect("write a file");
    let at = |name: &str| root.join(name).display().to_string();
    // Ids that no user of the host has, so that tar cannot write names for them.
    run("setfacl", ["-m", "u:71234:rw,g:71235:r,m::rw", &at("file")]);
    run("setfacl", ["-d", "-m", "u:71234:rwx,u:0:r", &at("dir")]);
    let archive = run(
        "tar",
        ["--acls", "--format=pax", "-cf", "-", "-C", &at(""), "."],
    );
    assert!(
        archive
            .windows(18)
            .any(|window| window == b"SCHILY.acl.access=")
    );
    let (base, _) = crate::base(&[archive]).expect("a base");
    let Some(mounted) = Mounted::new(&base) else {
        return;
    };
    assert_same("acl", &tree(&mounted.root(), true), &tree(&root, true));
}

/// Checks a base with `fsck.erofs`, if it is one that knows the features used here.
fn fsck(base: &[u8]) {
    let needs = "skipped: fsck.erofs >= 1.8";
    let Ok(output) = std::process::Command::new("fsck.erofs").arg("-V").output() else {
        eprintln!("{needs}");
        return;
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version = text
        .split_whitespace()
        .find_map(|word| {
            let (major, rest) = word.trim_start_matches('v').split_once('.')?;
            let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        })
        .unwrap_or_default();
    if version < (1, 8) {
        eprintln!("{needs}");
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), base).expect("write the base");
    run("fsck.erofs", [file.path().as_os_str()]);
}
