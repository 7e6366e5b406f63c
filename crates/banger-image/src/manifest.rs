//! Manifests and indexes of OCI and of Docker (version 2, schema 2): what an image is made of.
//!
//! The two families differ in their media types only. What a document is follows from its own
//! `mediaType`, else from its shape, and a document that could be read both ways is refused: a
//! signature or digest must not stand for two different images (CVE-2021-41190).

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::InvalidImage;
use crate::platform::Platform;

/// What we ask registries for, in an `Accept` header.
pub const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Most bytes of a manifest, index or configuration, as other clients have it.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of one image; Docker itself makes at most 127. Each holds a file descriptor while
/// the image is imported.
pub const MAX_LAYERS: usize = 512;
/// Most indexes within each other: what tools make has one, rarely two.
pub const MAX_NESTING: usize = 4;

const DOCUMENT: &str = "the manifest";

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
}

/// One variant of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
    /// The tag or reference an OCI layout gives it.
    pub names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestDocument {
    Image(Manifest),
    Index(Vec<IndexEntry>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<WireDescriptor>,
    #[serde(default)]
    layers: Option<Vec<WireDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<WireDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Index,
}

impl ManifestDocument {
    /// `served_as` is the media type the document came under, where there was one.
    pub fn parse(json: &[u8], served_as: Option<&str>) -> Result<ManifestDocument, InvalidImage> {
        let wire: Wire = serde_json::from_slice(json).map_err(|error| InvalidImage::Json {
            document: DOCUMENT,
            reason: error.to_string(),
        })?;
        if wire.schema_version == Some(1) {
            return Err(InvalidImage::SchemaOne);
        }
        if wire.layers.is_some() && wire.manifests.is_some() {
            return Err(InvalidImage::AmbiguousManifest);
        }
        match (
            kind(&wire, served_as)?,
            wire.config,
            wire.layers,
            wire.manifests,
        ) {
            (Kind::Image, Some(config), Some(layers), None) => {
                Ok(ManifestDocument::Image(image(config, layers)?))
            }
            (Kind::Index, None, None, Some(manifests)) => {
                let entries = manifests.into_iter().map(entry).collect::<Result<_, _>>()?;
                Ok(ManifestDocument::Index(entries))
            }
            _ => Err(InvalidImage::Document {
                document: DOCUMENT,
                what: "neither a whole image manifest nor an index".to_owned(),
            }),
        }
    }
}

fn kind(wire: &Wire, served_as: Option<&str>) -> Result<Kind, InvalidImage> {
    // Registries that do not know the type send a general one.
    let header = served_as
        .map(|text| text.split(';').next().unwrap_or_default().trim())
        .filter(|text| {
            !matches!(
                *text,
                "" | "application/json" | "text/plain" | "application/octet-stream"
            )
        });
    match (
        wire.media_type.as_deref().filter(|text| !text.is_empty()),
        header,
    ) {
        (Some(body), Some(header)) if body != header => Err(InvalidImage::ConflictingTypes {
            body: shortened(body),
            header: shortened(header),
        }),
        (Some(named), _) | (None, Some(named)) => match named {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Ok(Kind::Image),
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Ok(Kind::Index),
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
                Err(InvalidImage::SchemaOne)
            }
            other => Err(InvalidImage::ManifestType(shortened(other))),
        },
        (None, None) if wire.manifests.is_some() => Ok(Kind::Index),
        (None, None) => Ok(Kind::Image),
    }
}

fn image(config: WireDescriptor, layers: Vec<WireDescriptor>) -> Result<Manifest, InvalidImage> {
    match config.media_type.as_str() {
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json"
        // Some builders leave it out or send what their HTTP library guessed.
        | ""
        | "application/json"
        | "application/octet-stream" => {}
        other => return Err(InvalidImage::NotAnImage(shortened(other))),
    }
    if layers.len() > MAX_LAYERS {
        return Err(InvalidImage::Document {
            document: DOCUMENT,
            what: format!("a list of {} layers, more than {MAX_LAYERS}", layers.len()),
        });
    }
    let layers = layers
        .into_iter()
        .map(|layer| {
            let layer = descriptor(layer)?;
            if is_layer_type(&layer.media_type) {
                Ok(layer)
            } else {
                Err(InvalidImage::LayerType(shortened(&layer.media_type)))
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(Manifest {
        config: descriptor(config)?,
        layers,
    })
}

/// Compression is found from the bytes; here only what is no layer at all is turned away.
fn is_layer_type(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
}

fn entry(mut wire: WireDescriptor) -> Result<IndexEntry, InvalidImage> {
    let mut annotations = wire.annotations.take().unwrap_or_default();
    let names = [
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
    ]
    .iter()
    .filter_map(|key| annotations.remove(*key))
    .collect();
    let platform = wire.platform.take();
    Ok(IndexEntry {
        descriptor: descriptor(wire)?,
        platform,
        names,
    })
}

fn descriptor(wire: WireDescriptor) -> Result<Descriptor, InvalidImage> {
    let digest = wire.digest.parse().map_err(|reason| InvalidImage::Digest {
        document: DOCUMENT,
        reason,
    })?;
    Ok(Descriptor {
        media_type: wire.media_type,
        digest,
        size: wire.size,
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn blob(media_type: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":1}}"#,
            Digest::of(b"x")
        )
    }

    fn image_json(head: &str, config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{head},"config":{},"layers":[{}]}}"#,
            blob(config),
            blob(layer)
        )
    }

    fn outcome(json: &str, served_as: Option<&str>) -> String {
        match ManifestDocument::parse(json.as_bytes(), served_as) {
            Ok(ManifestDocument::Image(image)) => format!("image {}", image.layers.len()),
            Ok(ManifestDocument::Index(entries)) => format!("index {}", entries.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn documents_are_told_apart() {
        let config = "application/vnd.oci.image.config.v1+json";
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let plain = image_json("", config, layer);
        let typed = image_json(&format!(r#","mediaType":"{OCI}""#), config, layer);
        let docker = image_json(
            &format!(r#","mediaType":"{DOCKER}""#),
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        );
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, blob(OCI));
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}}"#,
            blob(config)
        );
        let many = format!(
            r#"{{"config":{},"layers":[{}]}}"#,
            blob(config),
            vec![blob(layer); MAX_LAYERS + 1].join(",")
        );
        for (json, served_as, expected) in [
            (plain.as_str(), None, "image 1"),
            (&plain, Some(OCI), "image 1"),
            (&plain, Some("application/json; charset=utf-8"), "image 1"),
            (&typed, None, "image 1"),
            (&typed, Some(OCI), "image 1"),
            (&docker, Some(DOCKER), "image 1"),
            (&index, None, "index 1"),
            (&index, Some(OCI_INDEX), "index 1"),
            (&typed, Some(DOCKER), "but was served as"),
            (
                &plain,
                Some(OCI_INDEX),
                "neither a whole image manifest nor an index",
            ),
            (
                &index,
                Some(OCI),
                "neither a whole image manifest nor an index",
            ),
            (&both, None, "both layers and manifests"),
            (&plain, Some("text/html"), "\"text/html\" is not supported"),
            (&many, None, "more than 512"),
            (
                r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#,
                None,
                "schema 1",
            ),
            ("{}", None, "neither"),
            ("<html>", None, "cannot be read"),
            (
                &image_json("", "application/vnd.cncf.helm.config.v1+json", layer),
                None,
                "not a container image",
            ),
            (
                &image_json(
                    "",
                    config,
                    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                ),
                None,
                "not supported",
            ),
            (&plain.replace("sha256:", "sha512:"), None, "bad digest"),
            (
                &plain.replace("\"size\":1", "\"size\":-1"),
                None,
                "cannot be read",
            ),
        ] {
            let found = outcome(json, served_as);
            assert!(found.contains(expected), "{json} as {served_as:?}: {found}");
        }
    }

    #[test]
    fn index_entries_carry_platform_and_names() {
        let json = format!(
            r#"{{"manifests":[{{"mediaType":"{OCI}","digest":"{}","size":7,
                "platform":{{"os":"linux","architecture":"amd64"}},
                "annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}]}}"#,
            Digest::of(b"x")
        );
        let Ok(ManifestDocument::Index(entries)) = ManifestDocument::parse(json.as_bytes(), None)
        else {
            panic!("not an index");
        };
        assert_eq!(
            entries[0].platform,
            Some(Platform::new("linux", "amd64", ""))
        );
        assert_eq!(entries[0].names, ["v1"]);
        assert_eq!(entries[0].descriptor.size, 7);
    }
}
