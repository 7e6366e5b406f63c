//! The compiled-in catalog is valid; what an extension may and may not say.

use super::*;

#[test]
fn the_compiled_in_catalog_holds_the_defaults() {
    let catalog = Catalog::load(None).unwrap();
    assert_eq!(catalog.default_image, "debian-12");
    assert!(catalog.image(&catalog.default_image).is_some());
    assert!(catalog.kernel(&catalog.default_kernel).is_some());
    assert!(catalog.image("debian").is_none());
}

fn extended(text: &str) -> Result<Catalog, CatalogError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.toml");
    std::fs::write(&path, text).unwrap();
    Catalog::load(Some(&path))
}

#[test]
fn an_extension_adds_and_replaces() {
    let catalog = extended(
        r#"
default_image = "mine"
[[image]]
name = "mine"
distro = "debian"
arch = "amd64"
builder = "mmdebstrap"
suite = "trixie"
mirror = "http://mirror/debian"
keyring = "/k.gpg"
[[kernel]]
name = "debian-6.1-cloud"
distro = "debian"
arch = "amd64"
kind = "debian-package"
package = "linux-image-amd64"
series = "6.1"
"#,
    )
    .unwrap();
    assert_eq!(catalog.default_image, "mine");
    assert_eq!(catalog.default_kernel, "debian-6.1-cloud");
    assert_eq!(catalog.image("mine").unwrap().variant, "minbase");
    assert!(catalog.image("debian-12").is_some());
    let kernels: Vec<_> = catalog
        .kernels
        .iter()
        .filter(|k| k.name.as_str() == "debian-6.1-cloud")
        .collect();
    assert_eq!(kernels.len(), 1);
    assert_eq!(kernels[0].package, "linux-image-amd64");
}

#[test]
fn what_is_wrong_is_named() {
    let image = |changes: &[(&str, &str)]| {
        let mut fields = std::collections::BTreeMap::from([
            ("name", r#""x""#),
            ("distro", r#""debian""#),
            ("arch", r#""amd64""#),
            ("builder", r#""mmdebstrap""#),
            ("suite", r#""bookworm""#),
            ("mirror", r#""http://m/debian""#),
            ("keyring", r#""/k.gpg""#),
        ]);
        fields.extend(changes.iter().copied());
        let body: String = fields.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        format!("[[image]]\n{body}")
    };
    assert!(extended(&image(&[])).is_ok());
    let kernel = |series: &str, package: &str| {
        format!(
            "[[kernel]]\nname = \"k\"\ndistro = \"d\"\narch = \"amd64\"\n\
             kind = \"debian-package\"\npackage = \"{package}\"\nseries = \"{series}\"\n"
        )
    };
    assert!(extended(&kernel("6.1", "linux-image-amd64")).is_ok());
    let cases = [
        (image(&[("colour", r#""red""#)]), "colour"),
        (image(&[("builder", r#""make""#)]), "builder"),
        (image(&[("suite", r#""--help""#)]), "image.x.suite"),
        (
            image(&[("include", r#"["git", "a b"]"#)]),
            "image.x.include",
        ),
        (image(&[("include", r#"["-x"]"#)]), "image.x.include"),
        (
            image(&[("components", r#"["main\nURIs: x"]"#)]),
            "image.x.components",
        ),
        (image(&[("mirror", r#""file:/srv""#)]), "image.x.mirror"),
        (image(&[("keyring", r#""k.gpg""#)]), "image.x.keyring"),
        (image(&[("name", r#""../x""#)]), "image.../x.name"),
        (image(&[]) + &image(&[]), "image.x.name"),
        (kernel("6.x", "p"), "kernel.k.series"),
        (kernel("6.1", "p q"), "kernel.k.package"),
        ("default_kernel = \"none\"\n".into(), "default_kernel"),
        ("defaultimage = \"none\"\n".into(), "defaultimage"),
        ("[[kernel]]\nname = \"a/b\"\n".into(), "name"),
    ];
    for (text, named) in cases {
        let error = extended(&text).expect_err(&text);
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            message += &source.to_string();
        }
        assert!(message.contains(named), "{named}: {message}");
    }
}

#[test]
fn series() {
    for (version, series, expected) in [
        ("6.1.0-56-cloud-amd64", "6.1", true),
        ("6.12.1", "6.1", false),
        ("6.1", "6.1", true),
        ("6.1-rc3", "6.1", true),
        ("16.1", "6.1", false),
    ] {
        assert_eq!(is_of_series(version, series), expected, "{version}");
    }
}
