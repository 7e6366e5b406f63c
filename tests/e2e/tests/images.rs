//! Images from registries and local sources, by the CLI.

use std::fs;
use std::process::Command;

use banger_e2e::fixture;
use banger_e2e::host::Host;
use banger_e2e::registry::{HTPASSWD, Registry, layout};
use banger_e2e::run::Run;

#[test]
fn an_image_from_a_registry_runs_with_its_configuration() {
    let host = Host::new();
    let work = tempfile::tempdir().unwrap();
    let layout = layout(
        work.path(),
        &fixture::busybox(work.path()),
        "v1",
        &[
            "--config.entrypoint",
            "/bin/sh",
            "--config.entrypoint",
            "-c",
            "--config.cmd",
            "echo from the image: $GREETING; id -un; pwd; exit 8",
            "--config.env",
            "GREETING=hello there",
            "--config.env",
            "PATH=/bin",
            "--config.user",
            "user",
            "--config.workingdir",
            "/tmp",
            "--config.volume",
            "/data",
        ],
    );
    let registry = Registry::start(None);
    registry.push(&layout, "v1", "team/app:v1", None);
    let reference = format!("{}/team/app:v1", registry.address);

    let run = host.banger(&["vm", "run", "--rm", &reference]);
    assert_eq!(
        (run.code(), run.text().as_str()),
        (8, "from the image: hello there\nuser\n/tmp"),
        "{run}"
    );
    let image = host
        .banger(&["--json", "image", "show", "app-v1"])
        .ok()
        .json();
    assert_eq!(image["source"], reference.as_str());
    assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));

    // A volume lies on the disk itself.
    host.vm("app-v1", "vol");
    assert_eq!(
        host.sh(
            "vol",
            "grep -c ' /data ext4' /proc/mounts; echo $GREETING; id -un"
        )
        .ok()
        .text(),
        "1\nhello there\nuser"
    );

    // The same reference again moves the name; another source of that name is refused.
    host.banger(&["image", "pull", &reference]).ok();
    registry.push(&layout, "v1", "other/app:v1", None);
    let other = format!("{}/other/app:v1", registry.address);
    host.banger(&["image", "pull", &other]).fails(103, "--name");
    host.banger(&["image", "pull", &other, "--name", "other"])
        .ok();
    host.banger(&[
        "image",
        "pull",
        &format!("{}/team/app:nope", registry.address),
    ])
    .fails(101, "nope");
    drop(registry);
    host.banger(&["image", "pull", &format!("{reference}2")])
        .fails(109, "127.0.0.1");
}

#[test]
fn credentials_come_from_dockers_configuration() {
    let host = Host::new();
    let work = tempfile::tempdir().unwrap();
    let layout = layout(work.path(), &fixture::busybox(work.path()), "v1", &[]);
    let registry = Registry::start(Some(HTPASSWD));
    registry.push(&layout, "v1", "private:v1", Some("user:secret"));
    let reference = format!("{}/private:v1", registry.address);
    host.banger(&["image", "pull", &reference])
        .fails(107, "docker login");

    let docker = host.root().join("docker");
    fs::create_dir(&docker).unwrap();
    let write = |auth: &str| {
        let text = format!(
            r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
            registry.address
        );
        fs::write(docker.join("config.json"), text).unwrap();
    };
    let pull = || {
        let mut command = host.command(&["image", "pull", &reference]);
        command.env("DOCKER_CONFIG", &docker);
        Run::of(&mut command, b"")
    };
    write("dXNlcjp3cm9uZw=="); // user:wrong
    pull().fails(107, &registry.address);
    write("dXNlcjpzZWNyZXQ="); // user:secret
    pull().ok();

    // A helper is a program on PATH.
    host.banger(&["image", "delete", "private-v1"]).ok();
    let helper = docker.join("docker-credential-test");
    fs::write(
        &helper,
        "#!/bin/sh\ncat > /dev/null\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n",
    )
    .unwrap();
    Run::of(Command::new("chmod").arg("755").arg(&helper), b"").ok();
    fs::write(
        docker.join("config.json"),
        format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.address),
    )
    .unwrap();
    let mut command = host.command(&["image", "pull", &reference]);
    let path = format!("{}:{}", docker.display(), std::env::var("PATH").unwrap());
    command.env("DOCKER_CONFIG", &docker).env("PATH", path);
    Run::of(&mut command, b"").ok();
}

#[test]
fn local_sources() {
    let host = Host::new();
    let work = tempfile::tempdir().unwrap();
    let tree = fixture::busybox(work.path());
    let layout = layout(work.path(), &tree, "v1", &["--config.cmd", "/bin/true"]);
    let copy = |to: &str| {
        let from = format!("oci:{}:v1", layout.display());
        let mut command = Command::new("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet", &from, to])
            .env("HOME", work.path());
        Run::of(&mut command, b"").ok();
    };
    let oci = work.path().join("oci.tar");
    let docker = work.path().join("docker.tar");
    let tar = work.path().join("root.tar");
    copy(&format!("oci-archive:{}:v1", oci.display()));
    copy(&format!("docker-archive:{}:app:v1", docker.display()));
    Run::of(
        Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&tar)
            .arg("."),
        b"",
    )
    .ok();
    for (name, source) in [
        ("a", format!("oci:{}:v1", layout.display())),
        ("b", format!("oci-archive:{}", oci.display())),
        ("c", format!("docker-archive:{}", docker.display())),
        ("d", format!("rootfs:{}", tar.display())),
        ("e", format!("rootfs:{}", tree.display())),
    ] {
        host.banger(&["image", "pull", &source, "--name", name])
            .ok();
        let shown = host.banger(&["--json", "image", "show", name]).ok().json();
        assert!(shown["size_bytes"].as_u64().unwrap() > 500_000, "{name}");
        host.banger(&["image", "delete", name]).ok();
    }
    host.banger(&[
        "image",
        "pull",
        &format!("oci:{}:v2", layout.display()),
        "--name",
        "x",
    ])
    .fails(101, "v1");
    let broken = work.path().join("broken.tar");
    fs::write(&broken, &fs::read(&tar).unwrap()[..100_000]).unwrap();
    host.banger(&[
        "image",
        "pull",
        &format!("rootfs:{}", broken.display()),
        "--name",
        "x",
    ])
    .fails(111, "");
    let staging = host.state().join("images/staging");
    assert_eq!(fs::read_dir(staging).into_iter().flatten().count(), 0);
}

/// A tree with one of each kind of entry, seen in the guest through the overlay exactly as GNU tar
/// and umoci see it on the host.
#[test]
fn the_guest_sees_what_the_layers_say() {
    if !nix::unistd::geteuid().is_root() {
        banger_e2e::skip("root");
        return;
    }
    let host = Host::new();
    let work = tempfile::tempdir().unwrap();
    let tree = fixture::busybox(work.path());
    let make = r"
        cd $1/root
        echo text > plain; chmod 4755 plain; chown 12:34 plain; touch -d '2001-02-03 04:05:06.789012345' plain
        ln plain hard; ln -s ../nowhere soft; mknod null c 1 3; mkfifo pipe; mkdir -m 1777 sticky
        truncate -s 3M sparse; echo end >> sparse; dd if=/dev/zero of=zeros bs=4k count=3 2>/dev/null
        printf x > $(printf 'na\377me'); echo y > 'with space'
        setcap cap_net_raw+ep plain; setfattr -n user.colour -v blue plain; setfacl -m u:99:r sticky
        mkdir deep; i=0; while [ $i -lt 40 ]; do mkdir -p deep/0123456789/$i; i=$((i+1)); done
    ";
    Run::of(Command::new("sh").args(["-ec", make, "sh"]).arg(&tree), b"").ok();
    let layout = layout(work.path(), &tree, "v1", &[]);
    host.banger(&[
        "image",
        "pull",
        &format!("oci:{}:v1", layout.display()),
        "--name",
        "tricky",
    ])
    .ok();
    let bundle = work.path().join("bundle");
    let image = format!("{}:v1", layout.display());
    Run::of(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
        b"",
    )
    .ok();

    host.banger(&["vm", "create", "--name", "box", "tricky"])
        .ok();
    let list = "cd $1/root && find . -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %h %s %t:%T %y' && md5sum plain sparse zeros && readlink soft";
    let seen = host
        .banger(&[
            "vm",
            "exec",
            "box",
            "--",
            "/bin/sh",
            "-c",
            &guest(list),
            "sh",
            "",
        ])
        .ok();
    let expected = Run::of(
        Command::new("/bin/busybox")
            .args(["sh", "-c", list, "sh"])
            .arg(bundle.join("rootfs"))
            .env("TZ", "UTC"),
        b"",
    )
    .ok();
    let lines = |run: &Run| -> Vec<String> {
        String::from_utf8_lossy(&run.stdout)
            .lines()
            // A directory's size is the file system's affair.
            .map(|line| {
                let mut fields: Vec<&str> = line.split(' ').collect();
                if fields.get(1).is_some_and(|mode| mode.starts_with('4')) && fields.len() > 5 {
                    fields[5] = "-";
                }
                fields.join(" ")
            })
            .collect()
    };
    assert_eq!(lines(&seen), lines(&expected));
}

/// In the guest the tree is at `/`.
fn guest(script: &str) -> String {
    script.replace("$1/root", "/root")
}
