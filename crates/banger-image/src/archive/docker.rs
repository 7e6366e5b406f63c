//! Selects an image of what `docker save` writes: `manifest.json`, which names its configuration
//! and its layers by their place in the archive.

use serde::Deserialize;

use super::layout::names;
use super::{Selected, Spool, bad_member};
use crate::error::{ImageError, InvalidImage};
use crate::manifest::{Descriptor, MAX_LAYERS};

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(crate) fn select(what: &str, spool: &Spool, tag: Option<&str>) -> Result<Selected, ImageError> {
    let invalid = |error| ImageError::invalid(what, error);
    if !spool.contains(MANIFEST) && spool.contains("repositories") {
        return Err(invalid(InvalidImage::Document {
            document: "the archive",
            what: "of a docker older than 1.10 and has no manifest.json".to_owned(),
        }));
    }
    let json = spool.document(what, MANIFEST)?;
    let entries: Vec<Entry> = serde_json::from_slice(&json)
        .map_err(|error| invalid(bad_member(MANIFEST, format!("cannot be read: {error}"))))?;
    let entry = tagged(what, entries, tag)?;
    let paths = entry.layers.unwrap_or_default();
    if paths.len() > MAX_LAYERS {
        return Err(invalid(bad_member(
            MANIFEST,
            format!("lists more than {MAX_LAYERS} layers"),
        )));
    }
    let layers = paths
        .iter()
        .map(|path| {
            let (digest, size) = spool.blob(path)?;
            Ok(Descriptor {
                media_type: String::new(),
                digest,
                size,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    Ok(Selected {
        manifest_digest: None,
        config: spool.document(what, &entry.config)?,
        layers,
    })
}

fn tagged(what: &str, entries: Vec<Entry>, tag: Option<&str>) -> Result<Entry, ImageError> {
    let available: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.repo_tags.clone().unwrap_or_default())
        .collect();
    let count = entries.len();
    let mut fitting = entries.into_iter().filter(|entry| match tag {
        Some(tag) => entry
            .repo_tags
            .iter()
            .flatten()
            .any(|name| names(name, tag)),
        None => true,
    });
    match (fitting.next(), fitting.next(), tag) {
        (Some(entry), None, _) => Ok(entry),
        (Some(_), Some(_), _) => Err(ImageError::TagAmbiguous { available }),
        (None, _, Some(tag)) if count > 0 => Err(ImageError::TagNotFound {
            tag: tag.to_owned(),
            available,
        }),
        (None, ..) => Err(ImageError::invalid(
            what,
            InvalidImage::MissingMember("image".to_owned()),
        )),
    }
}
