//! Layers of a stranger: one or two archives, plain or compressed. None may panic, and none may
//! cost more than its limits. What is accepted is a sound file system with nothing in it that
//! overlayfs would obey, and the same layers become the same bytes again.
//!
//! Input: a byte of switches, the length of the lower layer in blocks, the layers. Without the
//! switches a mutation would hardly ever get past a header's checksum or a missing end marker.
#![no_main]

#[path = "../../crates/banger-image/tests/base_layers/image.rs"]
mod image;

use std::collections::BTreeSet;
use std::error::Error;

use banger_image::decompress::Compression;
use banger_image::digest::Digest;
use banger_image::layers::{BaseError, BaseSummary, BaseWriter, base_digest};
use banger_image::limits::Limits;
use image::{Content, File, Image};
use libfuzzer_sys::fuzz_target;

/// Headers get the checksum they should have.
const SEAL: u8 = 1;
/// The digest of plain layers is known beforehand, so that they may lack an end marker.
const EXPECT: u8 = 2;

const BLOCK: usize = 512;
const LIMITS: Limits = Limits {
    max_entries: 200,
    max_layer_bytes: 4 << 20,
    max_base_bytes: 4 << 20,
    max_metadata_bytes: 256 << 10,
};

fuzz_target!(|data: &[u8]| {
    let [switches, cut, rest @ ..] = data else {
        return;
    };
    let (lower, upper) = rest
        .split_at_checked(usize::from(*cut) * BLOCK)
        .unwrap_or((rest, &[]));
    let mut layers: Vec<Layer> = [lower, upper]
        .into_iter()
        .filter(|layer| !layer.is_empty())
        .map(|layer| Layer::new(*switches, layer))
        .collect();
    match write(&layers) {
        Err(error) => refused(&error),
        Ok((bytes, summary, diff_ids)) => {
            accepted(&bytes, &summary, &diff_ids);
            for (layer, diff_id) in layers.iter_mut().zip(diff_ids) {
                layer.expected = Some(diff_id);
            }
            let again = write(&layers).expect("a layer is what it was");
            assert!(again.0 == bytes && again.1 == summary);
        }
    }
});

struct Layer {
    bytes: Vec<u8>,
    expected: Option<Digest>,
}

impl Layer {
    fn new(switches: u8, bytes: &[u8]) -> Layer {
        let mut bytes = bytes.to_vec();
        if switches & SEAL != 0 {
            let headers = bytes
                .chunks_exact_mut(BLOCK)
                .filter(|block| block[257..262] == *b"ustar");
            headers.for_each(seal);
        }
        let plain = !matches!(bytes[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]);
        let expected = (plain && switches & EXPECT != 0).then(|| Digest::of(&bytes));
        Layer { bytes, expected }
    }
}

fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn write(layers: &[Layer]) -> Result<(Vec<u8>, BaseSummary, Vec<Digest>), BaseError> {
    let mut bytes = Vec::new();
    let mut writer = BaseWriter::new(&mut bytes, LIMITS);
    let mut diff_ids = Vec::new();
    for layer in layers {
        let summary = writer.add_layer(&layer.bytes[..], Compression::Auto, layer.expected)?;
        assert!(summary.entries <= LIMITS.max_entries);
        assert!(summary.bytes <= LIMITS.max_layer_bytes);
        diff_ids.push(summary.diff_id);
    }
    let summary = writer.finish()?;
    Ok((bytes, summary, diff_ids))
}

/// Nothing of this says that the host is at fault, and all of it can be shown.
fn refused(error: &BaseError) {
    assert!(
        !matches!(
            error,
            BaseError::Write(_) | BaseError::Poisoned | BaseError::WrongDiffId { .. }
        ),
        "{error:?}"
    );
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        next = error.source();
    }
}

fn accepted(bytes: &[u8], summary: &BaseSummary, diff_ids: &[Digest]) {
    assert!(bytes.len() as u64 <= LIMITS.max_base_bytes);
    assert_eq!(bytes.len() as u64, summary.size);
    assert_eq!(summary.content_digest, base_digest(diff_ids));
    let mut image = Image::open(bytes);
    // Each name of a file holds a copy.
    image.max_content = 1 << 20;
    assert_eq!(image.uuid(), summary.uuid);
    let files = image.files();
    let numbers: BTreeSet<u64> = files.values().map(|file| file.number).collect();
    assert_eq!(numbers.len() as u64, summary.files);
    for (path, file) in &files {
        if !path.is_empty() {
            path.split(|byte| *byte == b'/').for_each(check_name);
        }
        check_file(file);
    }
}

fn check_name(name: &[u8]) {
    assert!((1..=255).contains(&name.len()) && !name.contains(&0));
    assert!(name != b"." && name != b".." && !name.starts_with(b".wh."));
}

fn check_file(file: &File) {
    assert!(file.mtime.1 < 1_000_000_000);
    assert!(file.uid != u32::MAX && file.gid != u32::MAX);
    match &file.content {
        Content::Symlink(target) => {
            assert!((1..=4095).contains(&target.len()) && !target.contains(&0));
        }
        Content::Special if file.mode & 0o170_000 == 0o020_000 => assert_ne!(file.device, 0),
        _ => {}
    }
    for name in file.xattrs.keys() {
        assert!(!name.starts_with("trusted.overlay.") && !name.starts_with("user.overlay."));
    }
}
