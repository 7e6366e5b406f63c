use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn canonical(text: &str) -> String {
    text.parse::<Reference>()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .to_string()
}

#[test]
fn docker_defaults_are_filled_in() {
    for (text, expected) in [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("library/debian", "docker.io/library/debian:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        (
            "docker.io/library/debian",
            "docker.io/library/debian:latest",
        ),
        ("index.docker.io/debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/me/app", "docker.io/me/app:latest"),
        ("me/app", "docker.io/me/app:latest"),
        ("a/b/c", "docker.io/a/b/c:latest"),
        ("quay.io/app", "quay.io/app:latest"),
        ("ghcr.io/me/app:v1.2", "ghcr.io/me/app:v1.2"),
        ("localhost/app", "localhost/app:latest"),
        // No slash, so 5000 is a tag.
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry:5000/app:1", "registry:5000/app:1"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fd00::1]/app", "[fd00::1]/app:latest"),
        // An upper-case first component is a host: no repository may be upper-case.
        ("Registry/app", "Registry/app:latest"),
        ("foo_bar/app", "docker.io/foo_bar/app:latest"),
        ("foo__bar/a--b", "docker.io/foo__bar/a--b:latest"),
        ("app:_x", "docker.io/library/app:_x"),
        ("app:UPPER.1-x_y", "docker.io/library/app:UPPER.1-x_y"),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn digests_stand_alone_or_beside_a_tag() {
    assert_eq!(
        canonical(&format!("app@sha256:{HEX}")),
        format!("docker.io/library/app@sha256:{HEX}")
    );
    let both: Reference = format!("quay.io/app:v1@sha256:{HEX}").parse().unwrap();
    assert_eq!(both.to_string(), format!("quay.io/app:v1@sha256:{HEX}"));
    assert_eq!(both.version(), format!("sha256:{HEX}"));
    assert_eq!(both.tag(), Some("v1"));
}

#[test]
fn what_docker_refuses_is_refused() {
    use ReferenceError as E;
    let long_path = format!("quay.io/{}", "a".repeat(256));
    let long_tag = format!("app:{}", "a".repeat(129));
    let short_digest = format!("app@sha256:{}", &HEX[1..]);
    for (text, expected) in [
        ("", E::Empty),
        (HEX, E::BareId),
        ("Debian", E::UpperCase),
        ("docker.io/Debian", E::UpperCase),
        ("me/App", E::UpperCase),
        (&long_path, E::PathTooLong),
        ("-app.x/y", E::Domain("-app.x".into())),
        ("a..b/y", E::Domain("a..b".into())),
        ("host:x/y", E::Domain("host:x".into())),
        ("host:99999/y", E::Domain("host:99999".into())),
        ("host:-1/y", E::Domain("host:-1".into())),
        ("[::g]/y", E::Domain("[::g]".into())),
        (":5000/y", E::Domain(":5000".into())),
        ("user@host.x/y", E::Domain("user@host.x".into())),
        ("../etc", E::Domain("..".into())),
        ("a//b", E::Path("a//b".into())),
        ("a/", E::Path("a/".into())),
        ("/a", E::Path("/a".into())),
        ("-a", E::Path("library/-a".into())),
        ("a-", E::Path("library/a-".into())),
        ("a___b", E::Path("library/a___b".into())),
        ("a._b", E::Path("library/a._b".into())),
        ("a/..", E::Path("a/..".into())),
        ("a b", E::Path("library/a b".into())),
        ("a\0", E::Path("library/a\0".into())),
        ("ä", E::Path("library/ä".into())),
        ("app:", E::Tag(String::new())),
        ("app:-x", E::Tag("-x".into())),
        ("app:.x", E::Tag(".x".into())),
        ("app:a:b", E::Tag("a:b".into())),
        ("app:a/b", E::Domain("app:a".into())),
        (&long_tag, E::Tag("a".repeat(80))),
        (
            "app@sha512:00",
            E::Digest(DigestError::Algorithm("sha512".into())),
        ),
        (
            &short_digest,
            E::Digest(DigestError::Malformed(format!("sha256:{}", &HEX[1..]))),
        ),
        ("app@", E::Digest(DigestError::Malformed(String::new()))),
    ] {
        assert_eq!(text.parse::<Reference>(), Err(expected), "{text}");
    }
}

#[test]
fn the_default_name_is_the_last_component_and_the_tag() {
    for (text, expected) in [
        ("debian:bookworm", "debian-bookworm"),
        ("alpine", "alpine-latest"),
        ("ghcr.io/me/tools/app:V1.2", "app-v1.2"),
        ("127.0.0.1:5000/a__b:c", "a__b-c"),
        (&format!("app@sha256:{HEX}"), "app-e3b0c44298fc"),
        (&format!("app:v1@sha256:{HEX}"), "app-v1"),
    ] {
        assert_eq!(text.parse::<Reference>().unwrap().default_name(), expected);
    }
}

#[test]
fn loopback_is_this_host_only() {
    for (text, expected) in [
        ("localhost/a", true),
        ("LOCALHOST:1/a", true),
        ("127.0.0.1:5000/a", true),
        ("127.9.9.9/a", true),
        ("[::1]:5000/a", true),
        ("128.0.0.1/a", false),
        ("127.0.0.1.example.com/a", false),
        ("localhost.example.com/a", false),
        ("[::2]/a", false),
        ("debian", false),
    ] {
        assert_eq!(
            text.parse::<Reference>().unwrap().is_loopback(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn docker_hub_is_served_by_another_host() {
    let hub: Reference = "debian".parse().unwrap();
    assert_eq!(
        (hub.domain(), hub.registry()),
        ("docker.io", "registry-1.docker.io")
    );
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_is_stable(text in "\\PC{0,80}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
        }
    }

    #[test]
    fn texts_that_look_like_references_are_stable(
        text in "([a-zA-Z0-9.-]{1,12}(:[0-9]{1,5})?/)?([a-z0-9]{1,6}[._/-]{0,2}){1,5}(:[a-zA-Z0-9._-]{1,8})?(@sha256:[0-9a-f]{64})?"
    ) {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
            let name = reference.default_name();
            prop_assert!((1..=128).contains(&name.len()));
            prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)));
        }
    }
}
