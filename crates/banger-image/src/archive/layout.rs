//! Selects an image of an OCI layout: `index.json`, then manifests by digest.

use super::{Selected, Spool, bad_member};
use crate::error::{ImageError, InvalidImage};
use crate::manifest::{IndexEntry, MAX_NESTING, ManifestDocument};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::choose_entry;

const INDEX: &str = "index.json";

pub(crate) fn select(
    what: &str,
    spool: &Spool,
    tag: Option<&str>,
    host: &Platform,
) -> Result<Selected, ImageError> {
    let invalid = |error| ImageError::invalid(what, error);
    let ManifestDocument::Index(entries) = parse(what, &spool.document(what, INDEX)?, None)? else {
        return Err(invalid(bad_member(INDEX, "is not an index")));
    };
    let entries = tagged(what, entries, tag)?;
    let mut entry = choose_entry(what, &entries, host)?.clone();
    let named = entry.descriptor.digest;
    for _ in 0..=MAX_NESTING {
        let descriptor = &entry.descriptor;
        let (digest, _) = spool.blob_by_digest(&descriptor.digest).map_err(invalid)?;
        let json = spool.document(what, &format!("blobs/sha256/{}", digest.hex()))?;
        match parse(what, &json, Some(&descriptor.media_type))? {
            ManifestDocument::Index(entries) => entry = choose_entry(what, &entries, host)?.clone(),
            ManifestDocument::Image(manifest) => {
                let config = format!("blobs/sha256/{}", manifest.config.digest.hex());
                let mut layers = manifest.layers;
                for layer in &mut layers {
                    // The name tells the digest, and the digest was checked; so the size that
                    // counts is the file's.
                    let (_, size) = spool.blob_by_digest(&layer.digest).map_err(invalid)?;
                    layer.size = size;
                }
                return Ok(Selected {
                    manifest_digest: Some(named),
                    config: spool.document(what, &config)?,
                    layers,
                });
            }
        }
    }
    Err(invalid(InvalidImage::NestedTooDeep(MAX_NESTING)))
}

fn parse(
    what: &str,
    json: &[u8],
    media_type: Option<&str>,
) -> Result<ManifestDocument, ImageError> {
    ManifestDocument::parse(json, media_type).map_err(|error| ImageError::invalid(what, error))
}

/// The entries that `tag` may mean. Without a tag there must be one name only; an archive without
/// any name holds one image, perhaps for several platforms.
fn tagged(
    what: &str,
    entries: Vec<IndexEntry>,
    tag: Option<&str>,
) -> Result<Vec<IndexEntry>, ImageError> {
    let mut available: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.names.clone())
        .collect();
    available.sort();
    available.dedup();
    match tag {
        Some(tag) => {
            let found: Vec<_> = entries
                .into_iter()
                .filter(|entry| entry.names.iter().any(|name| names(name, tag)))
                .collect();
            if found.is_empty() {
                return Err(ImageError::TagNotFound {
                    tag: tag.to_owned(),
                    available,
                });
            }
            Ok(found)
        }
        None if entries.is_empty() => Err(ImageError::invalid(
            what,
            InvalidImage::MissingMember("image".to_owned()),
        )),
        None => {
            let mut first_names = entries.iter().map(|entry| entry.names.first());
            let first = first_names.next().flatten();
            if first_names.all(|name| name == first) {
                Ok(entries)
            } else {
                Err(ImageError::TagAmbiguous { available })
            }
        }
    }
}

/// Whether a name in an archive is the one that is asked for. Tools write a bare tag or a whole
/// reference, and people mean either.
pub(super) fn names(name: &str, asked: &str) -> bool {
    let whole = |text: &str| {
        let reference = text.contains([':', '/']).then(|| text.parse::<Reference>());
        reference.and_then(Result::ok)
    };
    match (whole(name), whole(asked)) {
        (Some(name), Some(asked)) => name == asked,
        (Some(name), None) => name.tag() == Some(asked),
        _ => name == asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_by_itself_or_in_a_reference() {
        for (name, asked, expected) in [
            ("v1", "v1", true),
            ("v1", "v2", false),
            ("docker.io/library/app:v1", "v1", true),
            ("docker.io/library/app:v1", "app:v1", true),
            ("app:v1", "docker.io/library/app:v1", true),
            ("app:v1", "other:v1", false),
            ("app:v1", "v2", false),
            ("v1", "latest", false),
            ("me/app", "latest", true),
            ("", "v1", false),
        ] {
            assert_eq!(names(name, asked), expected, "{name} {asked}");
        }
    }
}
