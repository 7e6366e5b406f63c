//! The default image, built for real by mmdebstrap, as a stream.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is wrong, and not only in its `#[test]` function"
)]

use std::path::Path;
use std::process::Stdio;

use banger_host::command::find;
use banger_image::catalog::Catalog;
use banger_image::catalog::recipe::{self, RecipeError};
use banger_image::progress::Progress;
use tokio::io::AsyncReadExt;

/// A recipe that is small and quick: what the stream and its end are about needs no systemd.
fn entry() -> banger_image::catalog::ImageEntry {
    let mut entry = Catalog::load(None)
        .unwrap()
        .image("debian-12")
        .unwrap()
        .clone();
    entry.variant = "essential".into();
    entry.include.clear();
    entry
}

#[tokio::test]
async fn a_recipe_gives_a_root_file_system() {
    if find("mmdebstrap").is_none() {
        eprintln!("skipped: mmdebstrap");
        return;
    }
    let mut stream = match recipe::open(&entry(), &Progress::none()).await {
        Ok(stream) => stream,
        Err(RecipeError::NoUserMode { reason, .. }) => {
            eprintln!("skipped: root ({reason})");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut list = tokio::process::Command::new("tar")
        .arg("-t")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = list.stdin.take().unwrap();
    let copying = async {
        let count = tokio::io::copy(&mut stream, &mut input).await.unwrap();
        drop(input);
        count
    };
    let mut names = String::new();
    let mut output = list.stdout.take().unwrap();
    let (size, _) = tokio::join!(copying, output.read_to_string(&mut names));
    match stream.finish().await {
        Ok(()) => {}
        Err(RecipeError::Network { source, .. }) => {
            eprintln!("skipped: Debian mirror ({source})");
            return;
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
    assert!(list.wait().await.unwrap().success());
    assert!(size > 20 << 20, "{size}");
    for name in ["./bin/bash", "./usr/bin/bash", "./etc/debian_version"] {
        if names.lines().any(|line| line == name) {
            continue;
        }
        assert_ne!(name, "./etc/debian_version", "{size} bytes");
    }
    // What only costs space is gone.
    for prefix in ["./var/lib/apt/lists/", "./var/cache/apt/archives/"] {
        let left: Vec<_> = names
            .lines()
            .filter(|line| {
                line.starts_with(prefix) && !line.ends_with('/') && !line.ends_with("/lock")
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_mirror_that_is_not_there_is_named() {
    if find("mmdebstrap").is_none() {
        eprintln!("skipped: mmdebstrap");
        return;
    }
    let mut entry = entry();
    // No host has sources of this distribution, so the catalog's mirror is asked.
    entry.distro = "nonesuch".into();
    entry.mirror = "http://127.0.0.1:9/debian".into();
    if !Path::new(&entry.keyring).exists() {
        eprintln!("skipped: debian-archive-keyring");
        return;
    }
    let mut stream = match recipe::open(&entry, &Progress::none()).await {
        Ok(stream) => stream,
        Err(RecipeError::NoUserMode { reason, .. }) => {
            eprintln!("skipped: root ({reason})");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let error = stream.finish().await.unwrap_err();
    assert!(matches!(error, RecipeError::Network { .. }), "{error:?}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn what_cannot_be_built_here_is_said_at_once() {
    let mut foreign = entry();
    foreign.arch = "s390x".into();
    let Err(error) = recipe::open(&foreign, &Progress::none()).await else {
        panic!("it was begun");
    };
    assert!(error.to_string().contains("is for s390x"), "{error}");
    if find("mmdebstrap").is_none() {
        return;
    }
    let mut keyless = entry();
    keyless.distro = "nonesuch".into();
    keyless.keyring = "/nonexistent/keyring.gpg".into();
    match recipe::open(&keyless, &Progress::none()).await {
        Err(RecipeError::NoKeyring { .. } | RecipeError::NoUserMode { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was begun"),
    }
}
