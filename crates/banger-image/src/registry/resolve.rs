//! From a reference to the one image of this host: through indexes to a manifest and its
//! configuration.

use std::sync::Arc;

use crate::blobs::Blobs;
use crate::config::ImageDocument;
use crate::digest::Digest;
use crate::error::{ImageError, InvalidImage};
use crate::manifest::{IndexEntry, MAX_DOCUMENT, MAX_NESTING, Manifest, ManifestDocument};
use crate::platform::{Platform, choose};
use crate::reference::Reference;
use crate::registry::Repository;

/// An image, found and checked but for its layers.
pub(crate) struct Resolved {
    /// Digest of what the reference names: an index where there is one.
    pub digest: Digest,
    pub manifest: Manifest,
    pub document: ImageDocument,
}

pub(crate) async fn resolve(
    repository: &Arc<Repository>,
    blobs: &Blobs,
    reference: &Reference,
    host: &Platform,
) -> Result<Resolved, ImageError> {
    let what = reference.to_string();
    let (digest, manifest) = find_manifest(repository, reference, host, &what).await?;
    if manifest.config.size > MAX_DOCUMENT {
        return Err(ImageError::invalid(
            what,
            InvalidImage::Document {
                document: "the image configuration",
                what: format!("longer than {MAX_DOCUMENT} bytes"),
            },
        ));
    }
    let config = blobs.read_whole(&manifest.config, repository).await?;
    let document =
        ImageDocument::parse(&config).map_err(|error| ImageError::invalid(&what, error))?;
    check_document(&what, &document, manifest.layers.len(), host)?;
    Ok(Resolved {
        digest,
        manifest,
        document,
    })
}

async fn find_manifest(
    repository: &Repository,
    reference: &Reference,
    host: &Platform,
    what: &str,
) -> Result<(Digest, Manifest), ImageError> {
    let mut version = reference.version();
    let mut expected = reference.digest().copied();
    let mut named = None;
    for _ in 0..=MAX_NESTING {
        let served = repository.manifest(&version, expected.as_ref()).await?;
        let digest = *named.get_or_insert(served.digest);
        let document = ManifestDocument::parse(&served.bytes, served.media_type.as_deref())
            .map_err(|error| ImageError::invalid(what, error))?;
        match document {
            ManifestDocument::Image(manifest) => return Ok((digest, manifest)),
            ManifestDocument::Index(entries) => {
                let chosen = choose_entry(what, &entries, host)?.descriptor.digest;
                version = chosen.to_string();
                expected = Some(chosen);
            }
        }
    }
    Err(ImageError::invalid(
        what,
        InvalidImage::NestedTooDeep(MAX_NESTING),
    ))
}

/// The entry of an index that runs on this host. One that tells no platform is taken when no
/// other fits: an index within an index, or an image whose configuration will tell.
pub(crate) fn choose_entry<'a>(
    what: &str,
    entries: &'a [IndexEntry],
    host: &Platform,
) -> Result<&'a IndexEntry, ImageError> {
    let told = entries
        .iter()
        .filter_map(|entry| Some((entry.platform.as_ref()?, entry)));
    let silent = || entries.iter().find(|entry| entry.platform.is_none());
    choose(host, told).or_else(silent).ok_or_else(|| {
        // Attestations lie in an index under a platform that does not exist.
        let mut available: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(Platform::to_string)
            .collect();
        available.dedup();
        ImageError::UnsupportedPlatform {
            what: what.to_owned(),
            wanted: host.clone(),
            available,
        }
    })
}

/// What a configuration must fulfil before its layers are worth fetching.
pub(crate) fn check_document(
    what: &str,
    document: &ImageDocument,
    layers: usize,
    host: &Platform,
) -> Result<(), ImageError> {
    let Platform {
        os, architecture, ..
    } = &document.platform;
    let known = !os.is_empty() && !architecture.is_empty();
    if known && host.rank(&document.platform).is_none() {
        return Err(ImageError::UnsupportedPlatform {
            what: what.to_owned(),
            wanted: host.clone(),
            available: vec![document.platform.to_string()],
        });
    }
    let diff_ids = document.diff_ids.len();
    if diff_ids != layers {
        return Err(ImageError::invalid(
            what,
            InvalidImage::LayerCount { layers, diff_ids },
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Descriptor;

    fn entry(platform: Option<&str>) -> IndexEntry {
        IndexEntry {
            descriptor: Descriptor {
                media_type: String::new(),
                digest: Digest::of(platform.unwrap_or_default().as_bytes()),
                size: 1,
            },
            platform: platform.map(|text| {
                let (os, architecture) = text.split_once('/').unwrap();
                Platform::new(os, architecture, "")
            }),
            names: vec![],
        }
    }

    #[test]
    fn an_entry_without_platform_is_the_last_resort() {
        let host = Platform::new("linux", "amd64", "v1");
        for (offers, expected) in [
            (&[None, Some("linux/amd64")][..], Ok(1)),
            (&[Some("linux/arm64"), None], Ok(1)),
            (
                &[
                    Some("linux/arm64"),
                    Some("windows/amd64"),
                    Some("unknown/unknown"),
                ],
                Err("image has no variant for linux/amd64/v1; it has linux/arm64, windows/amd64"),
            ),
            (
                &[],
                Err("image has no variant for linux/amd64/v1; it has none"),
            ),
        ] {
            let entries: Vec<_> = offers.iter().map(|offer| entry(*offer)).collect();
            let found = choose_entry("image", &entries, &host)
                .map(|entry| entries.iter().position(|other| other == entry).unwrap())
                .map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{offers:?}");
        }
    }

    #[test]
    fn a_configuration_must_fit_host_and_layers() {
        let host = Platform::new("linux", "amd64", "v3");
        for (json, layers, expected) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, 0, ""),
            // Old archives do not tell.
            ("{}", 0, ""),
            (r#"{"os":"linux"}"#, 0, ""),
            (
                r#"{"os":"linux","architecture":"arm64"}"#,
                0,
                "it has linux/arm64",
            ),
            (
                r#"{"os":"windows","architecture":"amd64"}"#,
                0,
                "it has windows/amd64",
            ),
            ("{}", 2, "not a valid image"),
        ] {
            let document = ImageDocument::parse(json.as_bytes()).unwrap();
            let found = check_document("x", &document, layers, &host)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(found.contains(expected), "{json}: {found}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{json}: {found}");
        }
    }
}
