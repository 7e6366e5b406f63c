//! Layers to a base, seen from outside: what an image holds, what is refused, and whether other
//! programs see the same.

mod archive;
mod compare;
mod everything;
mod format;
mod image;
mod limits;
mod members;
mod merge;
mod mounted;
mod peers;
mod properties;
mod refusals;
mod script;

use banger_image::decompress::Compression;
use banger_image::layers::{BaseError, BaseSummary, BaseWriter};
use banger_image::limits::Limits;

/// The base of some uncompressed layers, lowest first.
fn base(layers: &[Vec<u8>]) -> Result<(Vec<u8>, BaseSummary), BaseError> {
    limited_base(layers, Limits::default())
}

fn limited_base(layers: &[Vec<u8>], limits: Limits) -> Result<(Vec<u8>, BaseSummary), BaseError> {
    let mut file = Vec::new();
    let mut writer = BaseWriter::new(&mut file, limits);
    for layer in layers {
        writer.add_layer(&layer[..], Compression::Plain, None)?;
    }
    let summary = writer.finish()?;
    Ok((file, summary))
}

/// An error and all its causes, as a user reads them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
