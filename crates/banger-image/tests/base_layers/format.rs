//! The file itself: always the same bytes, no bytes of what is hidden.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use banger_image::decompress::Compression;
use banger_image::digest::Digest;
use banger_image::layers::{BaseWriter, base_digest};
use banger_image::limits::Limits;

use crate::archive::{Member, archive};
use crate::base;
use crate::image::{Content, Image};
use crate::script::layer;

fn sample() -> Vec<Vec<u8>> {
    let members: Vec<_> = (0..300)
        .map(|n| {
            Member::file(format!("d{}/{n}", n % 7), vec![n as u8; n * 37])
                .xattr("user.n", n.to_string())
        })
        .collect();
    vec![
        archive(&members),
        layer("h d1/again=d1/1; f d2/.wh..wh..opq=; s l=d3"),
    ]
}

#[test]
fn the_same_layers_become_the_same_bytes() {
    let (first, summary) = base(&sample()).unwrap();
    let (second, again) = base(&sample()).unwrap();
    assert!(first == second);
    assert_eq!(summary, again);
    // The same through a file, from compressed layers, whatever the limits.
    let file = tempfile::tempfile().unwrap();
    let limits = Limits {
        max_entries: 1000,
        ..Limits::default()
    };
    let mut writer = BaseWriter::new(&file, limits);
    for layer in sample() {
        let layer = zstd::encode_all(&layer[..], 1).unwrap();
        writer
            .add_layer(&layer[..], Compression::Zstd, None)
            .unwrap();
    }
    assert_eq!(writer.finish().unwrap(), summary);
    let mut third = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut third, 0).unwrap();
    assert!(first == third);
}

#[test]
fn digest_and_uuid_are_known_before_writing() {
    let layers = sample();
    let (file, summary) = base(&layers).unwrap();
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    assert_eq!(summary.content_digest, base_digest(&diff_ids));
    assert_eq!(Image::open(&file).uuid(), summary.uuid);
    assert_eq!(summary.uuid[6] >> 4, 8);
    let (_, other) = base(&layers[..1]).unwrap();
    assert_ne!(other.uuid, summary.uuid);
    assert_ne!(
        base_digest(&diff_ids[..1]),
        base_digest(&[diff_ids[0], diff_ids[0]])
    );
    assert_eq!(summary.size, file.len() as u64);
}

#[test]
fn hidden_content_is_gone_from_the_file() {
    let noise = |seed: u8| -> Vec<u8> {
        (0..1_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed | 1)
            .collect()
    };
    let sparse = Member::file("sparse", noise(3))
        .record("GNU.sparse.map", "1000000,1000000")
        .record("GNU.sparse.size", "3000000");
    let layers = [
        archive(&[
            Member::file("replaced", noise(1)),
            Member::file("kept", noise(2)),
            sparse,
            Member::file("dir/hidden", noise(4)),
            Member::file("link", noise(5)),
        ]),
        layer("f replaced=; f .wh.sparse=; f .wh.dir=; h other=link; f .wh.link="),
    ];
    let file = tempfile::tempfile().unwrap();
    write(&file, &layers);
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let files = Image::open(&bytes).files();
    assert!(files[&b"kept"[..]].content == Content::File(noise(2)));
    assert!(files[&b"other"[..]].content == Content::File(noise(5)));
    let nonzero = bytes.iter().filter(|byte| **byte != 0).count();
    assert!((2_000_000..2_010_000).contains(&nonzero), "{nonzero}");
    // Where the file system has holes, the space is given back as well.
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!(
        allocated <= 2_000_000 + 20 * 4096 || allocated >= bytes.len() as u64,
        "{allocated}"
    );
}

fn write(file: &File, layers: &[Vec<u8>]) {
    let mut writer = BaseWriter::new(file, Limits::default());
    for layer in layers {
        writer
            .add_layer(&layer[..], Compression::Plain, None)
            .expect("the layer is good");
    }
    writer.finish().expect("the file takes all");
}

#[test]
fn only_holes_need_the_feature_for_chunks() {
    let (file, _) = base(&[archive(&[Member::file("a", vec![1; 1 << 20])])]).unwrap();
    assert!(!Image::open(&file).uses_chunks());
    let mut zeros = vec![1; 1 << 20];
    zeros[100_000..300_000].fill(0);
    let (file, _) = base(&[archive(&[Member::file("a", &zeros)])]).unwrap();
    assert!(Image::open(&file).uses_chunks());
    assert!(Image::open(&file).files()[&b"a"[..]].content == Content::File(zeros));
}

#[test]
fn dropped_attributes_are_named() {
    let mut writer = BaseWriter::new(Vec::new(), Limits::default());
    let first = archive(&[Member::file("a", "")
        .xattr("com.apple.x", "1")
        .xattr("user.ok", "")]);
    let summary = writer
        .add_layer(&first[..], Compression::Auto, None)
        .unwrap();
    assert_eq!(summary.dropped_xattrs, ["com.apple.x"]);
    let summary = writer
        .add_layer(&layer("f b=")[..], Compression::Auto, None)
        .unwrap();
    assert!(summary.dropped_xattrs.is_empty());
}

/// Tails stop fitting into memory, files go on being right.
#[test]
fn more_tails_than_are_kept_in_memory() {
    let members: Vec<_> = (0..10_000_u32)
        .map(|n| Member::file(format!("{n}"), n.to_le_bytes().repeat(1000)))
        .collect();
    let (file, summary) = base(&[archive(&members)]).unwrap();
    assert!(
        summary.size > 40_000_000 && summary.size < 44_000_000,
        "{summary:?}"
    );
    let files = Image::open(&file).files();
    for n in 0..10_000_u32 {
        let expected = Content::File(n.to_le_bytes().repeat(1000));
        assert!(files[n.to_string().as_bytes()].content == expected);
    }
}
