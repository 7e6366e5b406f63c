//! Images made to exhaust something.

use std::io::{Cursor, Read, repeat};

use banger_image::decompress::Compression;
use banger_image::layers::{BaseError, BaseWriter};
use banger_image::limits::Limits;

use crate::archive::{Member, archive};
use crate::image::Image;
use crate::script::layer;
use crate::{base, chain, limited_base};

fn refused(layers: &[Vec<u8>], limits: Limits, text: &str) {
    match limited_base(layers, limits) {
        Ok(_) => panic!("taken instead of: {text}"),
        Err(error) => assert_eq!(chain(&error), text),
    }
}

/// Members without end, made as they are read.
struct Endless<F> {
    next: F,
    number: u64,
    left: Cursor<Vec<u8>>,
}

impl<F: FnMut(u64) -> Member> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.position() == self.left.get_ref().len() as u64 {
            self.left = Cursor::new((self.next)(self.number).bytes());
            self.number += 1;
        }
        self.left.read(buffer)
    }
}

fn endless(next: impl FnMut(u64) -> Member + Send, limits: Limits) -> BaseError {
    let input = Endless {
        next,
        number: 0,
        left: Cursor::default(),
    };
    BaseWriter::new(Vec::new(), limits)
        .add_layer(input, Compression::Plain, None)
        .expect_err("it never ends")
}

#[test]
fn endless_archives() {
    let few = || Limits {
        max_entries: 20_000,
        max_metadata_bytes: 1 << 20,
        ..Limits::default()
    };
    let error = endless(|n| Member::file(format!("d/{n}"), ""), few());
    assert_eq!(error.to_string(), "the image has more than 20000 files");
    // An entry that makes nothing is counted as well.
    let error = endless(|_| Member::file(".wh.a", ""), few());
    assert_eq!(error.to_string(), "the image has more than 20000 entries");
    let error = endless(|_| Member::file("a", ""), few());
    assert_eq!(error.to_string(), "the image has more than 20000 files");
    let error = endless(|n| Member::file(format!("{n:0200}"), ""), few());
    assert_eq!(
        error.to_string(),
        "the image has more than 1048576 bytes of names and attributes"
    );
    let error = endless(
        |n| Member::file(n.to_string(), "").xattr("user.a", [0; 9000]),
        few(),
    );
    assert_eq!(
        error.to_string(),
        "the image has more than 1048576 bytes of names and attributes"
    );
}

#[test]
fn parents_count_as_files() {
    let layers = [layer(&format!("f {}=1", ["d"; 200].join("/")))];
    let limits = |max_entries| Limits {
        max_entries,
        ..Limits::default()
    };
    refused(&layers, limits(199), "the image has more than 199 files");
    assert!(limited_base(&layers, limits(201)).is_ok());
}

#[test]
fn bytes_of_a_layer() {
    let limits = Limits {
        max_layer_bytes: 1 << 20,
        ..Limits::default()
    };
    // One gigabyte of zeros in one megabyte.
    let zeros = Member::file("a", "").size(1 << 30).bytes();
    let mut encoder = flate2::read::GzEncoder::new(
        zeros.chain(repeat(0).take(1 << 30)),
        flate2::Compression::fast(),
    );
    let mut bomb = Vec::new();
    // The first 100 KiB are bomb enough.
    encoder
        .by_ref()
        .take(100 << 10)
        .read_to_end(&mut bomb)
        .unwrap();
    let error = BaseWriter::new(Vec::new(), limits)
        .add_layer(&bomb[..], Compression::Gzip, None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the layer is longer than 1048576 bytes uncompressed"
    );
}

#[test]
fn bytes_of_the_base() {
    let limits = |max_base_bytes| Limits {
        max_base_bytes,
        ..Limits::default()
    };
    let content = [archive(&[Member::file("a", vec![1; 100_000])])];
    refused(
        &content,
        limits(65_536),
        "the image has more than 65536 bytes",
    );
    assert!(limited_base(&content, limits(120_000)).is_ok());
    // Metadata counts before it is written: the inodes alone are too many here.
    let many: Vec<_> = (0..2000).map(|n| Member::file(n.to_string(), "")).collect();
    refused(
        &[archive(&many)],
        limits(100_000),
        "the image has more than 100000 bytes",
    );
    // A map of holes is metadata too: four bytes for each of 262144 chunks.
    let holes: Vec<_> = (0..100).map(|n| terabyte(&n.to_string(), "0,1")).collect();
    refused(
        &[archive(&holes)],
        limits(50 << 20),
        "the image has more than 52428800 bytes",
    );
}

fn terabyte(path: &str, map: &str) -> Member {
    let stored: usize = map
        .split(',')
        .skip(1)
        .step_by(2)
        .map(|length| length.parse::<usize>().expect("a length"))
        .sum();
    Member::file(path, vec![7; stored])
        .record("GNU.sparse.map", map)
        .record("GNU.sparse.size", (1_u64 << 40).to_string())
}

#[test]
fn a_sparse_terabyte_costs_next_to_nothing() {
    let hole = terabyte("hole", "1099511627776,0");
    let dots = terabyte("dots", "0,1,549755813888,5,1099511627775,1");
    // In memory the chunks are not holes, so the hole alone comes first.
    let (file, summary) = base(&[archive(&[hole])]).unwrap();
    assert!(summary.size <= 3 * 4096);
    let files = Image::open(&file).files();
    assert_eq!(files[&b"hole"[..]].size, 1 << 40);
    let (_, summary) = base(&[archive(&[dots])]).unwrap();
    assert!(summary.size < 3 * (4 << 20) + (2 << 20), "{summary:?}");
}

#[test]
fn deep_trees_do_not_recurse() {
    let part = ["d"; 2000].join("/");
    let mut text = format!("f {part}/f=1");
    // Each further layer begins where the last one ended, through a symlink at the top.
    let mut end = part.clone();
    let mut layers = vec![layer(&text)];
    for n in 0..5 {
        text = format!("s l{n}={end}; f l{n}/{part}/f=1");
        end = format!("l{n}/{part}");
        layers.push(layer(&text));
    }
    layers.push(layer("f x=1; f d/.wh..wh..opq="));
    let (file, summary) = base(&layers[..6]).unwrap();
    assert!(summary.files > 12_000);
    assert!(!file.is_empty());
    let (_, summary) = base(&layers).unwrap();
    assert_eq!(summary.files, 1 + 1 + 5 + 1, "root, d, symlinks, x");
}

#[test]
fn one_directory_of_fifty_thousand() {
    let members: Vec<_> = (0..50_000)
        .map(|n| Member::file(format!("d/file-{n}"), format!("{n}")))
        .collect();
    let (file, _) = base(&[archive(&members)]).unwrap();
    let files = Image::open(&file).files();
    assert_eq!(files.len(), 50_002);
    assert!(files[&b"d"[..]].size > 1 << 20);
}

/// Markers over and over on the same deep directory: the work must not multiply.
#[test]
fn repeated_opaque_markers_are_cheap() {
    let mut members: Vec<_> = (0..20_000)
        .map(|n| Member::file(format!("a/b/{n}"), ""))
        .collect();
    members.extend((0..20_000).flat_map(|_| {
        [
            Member::file("a/.wh..wh..opq", ""),
            Member::file("a/.wh.b", ""),
        ]
    }));
    let (_, summary) = base(&[archive(&members)]).unwrap();
    assert_eq!(summary.files, 20_003);
}
