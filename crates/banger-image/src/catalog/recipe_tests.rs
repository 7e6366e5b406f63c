//! The mode as a table, the command line as a golden, and errors told apart by real messages.

use banger_host::command::Ending;

use super::super::Catalog;
use super::*;

#[test]
fn modes() {
    let full = Surroundings {
        root: false,
        user_namespaces: true,
        uidmap: true,
        subordinate_ids: true,
        fakechroot: false,
    };
    let cases = [
        (Surroundings { root: true, ..full }, Ok(Mode::Root)),
        (full, Ok(Mode::Unshare)),
        (
            Surroundings {
                user_namespaces: false,
                ..full
            },
            Err("it forbids user namespaces"),
        ),
        (
            Surroundings {
                uidmap: false,
                ..full
            },
            Err("newuidmap is not installed"),
        ),
        (
            Surroundings {
                subordinate_ids: false,
                ..full
            },
            Err("the user has no subordinate ids"),
        ),
        (
            Surroundings {
                subordinate_ids: false,
                fakechroot: true,
                ..full
            },
            Ok(Mode::Fakechroot),
        ),
    ];
    for (host, expected) in cases {
        assert_eq!(mode(host), expected, "{host:?}");
    }
}

#[test]
fn subordinate_ids() {
    let text = "root:1:65536\nann:100000:65536\nbob:1:100\ncy:x:65536\n";
    for (user, expected) in [
        (Some("ann"), true),
        (Some("bob"), false),
        (Some("cy"), false),
        (Some("dee"), false),
        (None, false),
    ] {
        assert_eq!(has_subordinate_ids(text, user), expected, "{user:?}");
    }
}

#[test]
fn command_line() {
    let catalog = Catalog::load(None).unwrap();
    let entry = catalog.image("debian-12").unwrap();
    let line = arguments(
        entry,
        Mode::Unshare,
        &["Acquire::http::Proxy \"http://p:3142\";".into()],
    )
    .join("\n")
    .replace(JOURNAL, "JOURNAL");
    assert_eq!(
        line,
        // What a shell is given is tried by a test of its own.
        "--mode=unshare\n--variant=minbase\n--architectures=amd64\n--format=tar\n\
         --aptopt=Acquire::Languages \"none\"\n--aptopt=Acquire::Retries \"3\"\n\
         --aptopt=Acquire::http::Timeout \"30\"\n\
         --customize-hook=rm -rf \"$1\"/var/cache/debconf/*-old \"$1\"/var/lib/dpkg/*-old \
         \"$1\"/var/log/apt \"$1\"/var/log/*.log\n\
         --customize-hook=JOURNAL\n\
         --include=ca-certificates,curl,git,iproute2,iputils-ping,less,procps,systemd-sysv\n\
         --aptopt=Acquire::http::Proxy \"http://p:3142\";\nbookworm\n-\n-"
    );
}

#[tokio::test]
async fn the_journal_is_bounded_where_there_is_one() {
    let run = async |root: &std::path::Path| {
        let shell = Program::new("sh").args(["-ec", JOURNAL, "hook"]).arg(root);
        shell.run().await.unwrap();
    };
    let root = tempfile::tempdir().unwrap();
    run(root.path()).await;
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    std::fs::create_dir_all(root.path().join("etc/systemd")).unwrap();
    run(root.path()).await;
    let file = root
        .path()
        .join("etc/systemd/journald.conf.d/00-banger.conf");
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        "[Journal]\nSystemMaxUse=64M\nSystemMaxFileSize=8M\n"
    );
}

#[test]
fn failures_are_told_apart() {
    let error = |stderr: &str| {
        failed(
            "i".into(),
            CommandError::Failed {
                command: "mmdebstrap".into(),
                ending: Ending::Code(1),
                stderr: stderr.into(),
            },
        )
    };
    for text in [
        "W: Failed to fetch http://m/InRelease  Could not connect to m:80",
        "E: Failed to fetch http://m  Temporary failure resolving 'm'",
    ] {
        assert!(matches!(error(text), RecipeError::Network { .. }), "{text}");
    }
    for text in [
        "tar: usr/x: Cannot write: No space left on device",
        "E: You don't have enough free space in /var/cache/apt/archives/.",
    ] {
        assert!(matches!(error(text), RecipeError::NoSpace { .. }), "{text}");
    }
    assert!(matches!(
        error("E: Unable to locate package nonesuch"),
        RecipeError::Build { .. }
    ));
    assert!(matches!(
        failed(
            "i".into(),
            CommandError::NotFound {
                program: "mmdebstrap".into()
            }
        ),
        RecipeError::NotInstalled { .. }
    ));
    assert!(error("x").hint().is_none());
}

#[test]
fn a_missing_keyring_is_found_before_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("k.gpg");
    std::fs::write(&key, "x").unwrap();
    let sources =
        |signed: &str| format!("Types: deb\nURIs: http://m\nSuites: s\nSigned-By: {signed}\n");
    assert_eq!(missing_keyring(&sources(key.to_str().unwrap())), None);
    assert_eq!(missing_keyring("Types: deb\n"), None);
    let gone = dir.path().join("gone.gpg");
    assert_eq!(
        missing_keyring(&sources(gone.to_str().unwrap())),
        Some(gone)
    );
}
