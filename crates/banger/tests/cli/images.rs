//! Where images come from: credentials and local sources are the client's to read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use banger_protocol::api::operation::{OperationKind, OperationResult};
use banger_protocol::error::{ApiError, ErrorKind};
use serde_json::{Value, json};

use crate::support::{Answer, Fake, Request, Run, samples};

fn route(request: &Request) -> Answer {
    match request.path.split('?').next().unwrap_or_default() {
        "/v1/images/pull" | "/v1/images/import" => Answer::lines(&samples::succeeded(
            OperationKind::ImagePull,
            OperationResult::Image {
                image: Box::new(samples::image("app-1", "reg.example/app:1")),
            },
        )),
        "/v1/vms" => Answer::error(&ApiError::new(ErrorKind::Unreachable, "far away")),
        path => Answer::not_found(path),
    }
}

/// Writes docker's configuration and a helper which knows `reg.example` alone.
fn docker(root: &Path, config: &Value) {
    let directory = root.join(".docker");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let helper = root.join("docker-credential-test");
    let script = "#!/bin/sh\nread -r server\n\
        case $server in\n\
        reg.example) echo '{\"Username\":\"u\",\"Secret\":\"from the helper\"}' ;;\n\
        broken.example) echo 'the vault is locked'; exit 1 ;;\n\
        *) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
}

fn pull(fake: &Fake, arguments: &[&str]) -> Run {
    let path = format!("{}:/usr/bin:/bin", fake.root().display());
    Run::of(fake.command(arguments).env("PATH", path))
}

#[test]
fn credentials_are_read_here_and_sent_with_the_request() {
    let fake = Fake::new(route);
    let config = json!({
        // "name:secret"
        "auths": {"plain.example": {"auth": "bmFtZTpzZWNyZXQ="}},
        "credHelpers": {"reg.example": "test", "broken.example": "test"},
    });
    docker(fake.root(), &config);
    for (reference, expected) in [
        (
            "reg.example/app:1",
            json!({"type": "basic", "username": "u", "password": "from the helper"}),
        ),
        (
            "plain.example/app:1",
            json!({"type": "basic", "username": "name", "password": "secret"}),
        ),
        ("other.example/app:1", Value::Null),
        ("debian:12", Value::Null),
    ] {
        pull(&fake, &["image", "pull", "-q", reference]).ok();
        let asked = fake.requests().pop().unwrap().json();
        let credentials = asked.get("credentials").cloned().unwrap_or_default();
        assert_eq!(credentials, expected, "{reference}");
    }
    // `run` needs them too, where the image is not here.
    pull(&fake, &["run", "reg.example/app:1"]).fails(109, "far away");
    let asked = fake.requests().pop().unwrap().json();
    assert_eq!(asked["credentials"]["password"], "from the helper");

    let run = pull(&fake, &["image", "pull", "broken.example/app"]);
    let run = run.fails(107, "the vault is locked");
    assert!(run.stderr().contains("config.json"), "{run}");
}

#[test]
fn a_pull_is_a_reference_a_name_and_a_kernel() {
    let fake = Fake::new(route);
    let run = fake.banger(&[
        "pull",
        "debian:bookworm",
        "--name",
        "mine",
        "--kernel-ref",
        "six",
    ]);
    assert_eq!(run.ok().stdout(), "app-1\n");
    assert_eq!(
        fake.requests()[0].json(),
        json!({"reference": "debian:bookworm", "name": "mine", "kernel": "six"})
    );
    let image = fake.banger(&["image", "pull", "x", "--json"]).ok().json();
    assert_eq!(image, json!(samples::image("app-1", "reg.example/app:1")));
}

/// Names in a tar archive.
fn names(tar: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.tar");
    fs::write(&file, tar).unwrap();
    let listed = Run::of(std::process::Command::new("tar").arg("tf").arg(&file)).ok();
    listed.stdout().lines().map(str::to_owned).collect()
}

#[test]
fn local_sources_are_streamed() {
    let fake = Fake::new(route);
    let tree = fake.root().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/issue"), "hello").unwrap();
    fs::write(fake.root().join("app.tar"), "any bytes").unwrap();
    let layout = fake.root().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("index.json"), "{}").unwrap();
    fs::write(layout.join("oci-layout"), "{}").unwrap();
    fs::write(layout.join("notes"), "not of the layout").unwrap();

    let body = |arguments: &[&str]| {
        fake.banger(arguments).ok();
        let request = fake.requests().pop().unwrap();
        (request.path, request.body)
    };
    let (path, tar) = body(&["image", "pull", "rootfs:tree"]);
    assert!(
        path.contains("kind=rootfs") && path.contains("name=tree"),
        "{path}"
    );
    assert!(names(&tar).iter().any(|name| name.ends_with("etc/issue")));

    let (path, bytes) = body(&[
        "image",
        "pull",
        "docker-archive:app.tar:team/app:2",
        "--kernel",
        "k",
    ]);
    assert_eq!(bytes, b"any bytes");
    for part in [
        "kind=docker-archive",
        "name=app-2",
        "tag=team%2Fapp%3A2",
        "kernel=k",
    ] {
        assert!(path.contains(part), "{part}: {path}");
    }
    let (path, bytes) = body(&["image", "pull", "oci-archive:app.tar", "--name", "x"]);
    assert!(
        path.contains("kind=oci-archive") && path.contains("name=x"),
        "{path}"
    );
    assert_eq!(bytes, b"any bytes");

    let pipe = &mut fake.command(&["image", "pull", "docker-archive:/dev/stdin", "--name", "x"]);
    Run::with_input(pipe, b"through a pipe").ok();
    assert_eq!(fake.requests().pop().unwrap().body, b"through a pipe");

    let (path, tar) = body(&["image", "pull", "oci:layout:v1"]);
    assert!(
        path.contains("kind=oci-archive") && path.contains("tag=v1"),
        "{path}"
    );
    let names = names(&tar);
    assert!(
        names.iter().any(|name| name.ends_with("index.json")),
        "{names:?}"
    );
    assert!(
        !names.iter().any(|name| name.contains("notes")),
        "{names:?}"
    );
}

#[test]
fn a_kernel_of_ones_own_is_streamed() {
    let fake = Fake::new(|request| match request.path.split('?').next() {
        Some("/v1/kernels/import") => Answer::lines(&samples::succeeded(
            OperationKind::KernelImport,
            OperationResult::Kernel {
                kernel: Box::new(samples::kernels().kernels[0].clone()),
            },
        )),
        _ => Answer::not_found("that"),
    });
    fs::write(fake.root().join("bzImage"), "kernel").unwrap();
    let run = fake.banger(&["kernel", "import", "six", "--from", "bzImage", "--force"]);
    assert_eq!(run.ok().stdout(), "six\n");
    let request = fake.requests().pop().unwrap();
    assert!(request.path.contains("name=six") && request.path.contains("force=true"));
    assert_eq!(names(&request.body), ["bzImage"]);
}

#[test]
fn an_image_is_meant_by_its_name_or_its_source() {
    let images = [
        samples::image("debian-bookworm", "docker.io/library/debian:bookworm"),
        samples::image("app-1", "ghcr.io/team/app:1"),
    ];
    let fake = Fake::new(move |request| match request.line().as_str() {
        "GET /v1/images" => Answer::ok(&json!({"images": images})),
        "GET /v1/images/debian-bookworm" => Answer::ok(&images[0]),
        "DELETE /v1/images/app-1" => Answer::ok(&json!({})),
        line => Answer::not_found(line),
    });
    let shown = fake
        .banger(&["image", "show", "--json", "debian:bookworm"])
        .ok();
    assert_eq!(shown.json()["name"], "debian-bookworm");
    assert_eq!(fake.banger(&["rmi", "team/app:1"]).ok().stdout(), "app-1\n");
    fake.banger(&["rmi", "nothing:1"]).fails(101, "image list");
    fake.banger(&["rmi", "-f", "nothing:1"]).ok();
}
