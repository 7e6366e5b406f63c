//! Images made by hand, good and bad. The real kernel is in `tests/kernel_pull.rs`.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// An ELF file with one PT_LOAD and, where asked for, a PVH note, that holds `text`.
fn elf(machine: u16, kind: u16, pvh: bool, text: &[u8]) -> Vec<u8> {
    let headers = if pvh { 2u16 } else { 1 };
    let note: Vec<u8> = [4u32, 4, 18]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(*b"Xen\0\x10\0\0\0")
        .collect();
    let start = 64 + 56 * u64::from(headers);
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend(kind.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend([0u64, 64, 0].iter().flat_map(|w| w.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, headers, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, offset: u64, size: u64| {
        out.extend(kind.to_le_bytes());
        out.extend(5u32.to_le_bytes());
        for word in [offset, 0, 0, size, size, 4] {
            out.extend(word.to_le_bytes());
        }
    };
    segment(1, start, (note.len() + text.len()) as u64);
    if pvh {
        segment(4, start, note.len() as u64);
    }
    out.extend(&note);
    out.extend(text);
    out
}

const BANNER: &[u8] = b"x Linux version %s\0 Linux version 6.1.0-56-cloud-amd64 (gcc) #1 SMP\n\0";

fn vmlinux() -> Vec<u8> {
    elf(62, 2, true, BANNER)
}

/// A bzImage of two setup sectors around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 3 * 512];
    out[0x1f1] = 2;
    out[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend([0xcc; 16]);
    out.extend(payload);
    out.extend([0xcc; 64]);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As the kernel's build does it: x86 BCJ filter, CRC32 check.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut filters = liblzma::stream::Filters::new();
    filters
        .x86()
        .lzma2(&liblzma::stream::LzmaOptions::new_preset(1).unwrap());
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32)
            .unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `lz4 -l`: literals only, in two blocks, so that there is something to join.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"\x02\x21\x4c\x18".to_vec();
    for block in bytes.chunks(100) {
        let mut packed = vec![0xf0, (block.len() - 15) as u8];
        packed.extend(block);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

/// The unpacked size, which the build appends to every payload but gzip's.
fn with_size(mut payload: Vec<u8>, size: usize) -> Vec<u8> {
    payload.extend((size as u32).to_le_bytes());
    payload
}

#[test]
fn images_of_every_packing_give_the_same_kernel() {
    let kernel = vmlinux();
    let zstd = zstd::encode_all(&kernel[..], 1).unwrap();
    for (what, bytes) in [
        ("vmlinux", kernel.clone()),
        ("vmlinux.gz", gzip(&kernel)),
        ("bzImage gzip", bzimage(&gzip(&kernel))),
        ("bzImage xz", bzimage(&with_size(xz(&kernel), kernel.len()))),
        ("bzImage zstd", bzimage(&with_size(zstd, kernel.len()))),
        ("vmlinux.lz4", lz4(&kernel)),
        (
            "bzImage lz4",
            bzimage(&with_size(lz4(&kernel), kernel.len())),
        ),
        ("bzImage uncompressed", bzimage(&kernel)),
    ] {
        let image = open(what, bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(image.version, "6.1.0-56-cloud-amd64", "{what}");
        assert!(image.pvh, "{what}");
        assert_eq!(image.vmlinux, kernel, "{what}");
    }
}

#[test]
fn a_kernel_without_pvh_is_told_apart() {
    assert!(!open("k", elf(62, 2, false, BANNER)).unwrap().pvh);
}

#[test]
fn what_is_no_kernel_is_refused_with_the_reason() {
    let mut old = bzimage(b"x");
    old[0x206..0x208].copy_from_slice(&0x200u16.to_le_bytes());
    let mut outside = bzimage(&gzip(&vmlinux()));
    outside[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut cut_segment = vmlinux();
    cut_segment.truncate(cut_segment.len() - 1);
    let mut arm = vec![0; 0x40];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let truncated = gzip(&vmlinux());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "it is empty"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF file nor a bzImage"),
        (elf(62, 2, true, b"no banner"), "no \"Linux version\" text"),
        (elf(62, 1, true, BANNER), "an ELF object"),
        (elf(183, 2, true, BANNER), "for aarch64"),
        (elf(3, 2, true, BANNER), "for i386"),
        (elf(22, 2, true, BANNER), "for ELF machine 22"),
        (arm, "for aarch64"),
        (b"\x7fELF\x02\x01".to_vec(), "truncated"),
        (cut_segment, "outside the file"),
        (old, "older than 2.08"),
        (outside, "outside the file"),
        (bzimage(b""), "outside the file"),
        (bzimage(b"nothing known"), "packed in an unknown way"),
        (bzimage(b"BZh91AY"), "compressed with bzip2"),
        (bzimage(b"\x02\x21\x4c\x18aaaa"), "cannot decompress"),
        (bzimage(&with_size(lz4(&vmlinux()), 7)), "cannot decompress"),
        (bzimage(&lz4(&vmlinux())[..40]), "cannot decompress"),
        (bzimage(b"\x89LZO\0"), "compressed with lzo"),
        (bzimage(b"\x5d\0\0\0"), "compressed with lzma"),
        (bzimage(&gzip(b"not ELF")), "not an ELF file"),
        (
            bzimage(&truncated[..truncated.len() - 12]),
            "cannot decompress",
        ),
    ];
    for (bytes, reason) in cases {
        let error = open("some/file", bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(error.contains("some/file"), "{error}");
    }
}

#[test]
fn unpacking_is_bounded() {
    let bomb = gzip(&vec![0; 100_000]);
    assert_eq!(
        decompress("m", bomb.clone(), 100_000).unwrap().len(),
        100_000
    );
    assert!(matches!(
        decompress("m", bomb, 99_999),
        Err(KernelError::TooLarge { limit: 99_999, .. })
    ));
}

#[test]
fn banners() {
    for (text, expected) in [
        (&b"Linux version 6.12.1 (x"[..], Some("6.12.1")),
        (b"Linux version 6.12.1-rc3+ (x", Some("6.12.1-rc3+")),
        (b"Linux version %s", None),
        (b"Linux version 6.12.1", None),
        (b"Linux version 6 (x", None),
        (b"Linux version 6.1/../x (", None),
        (b"", None),
    ] {
        assert_eq!(banner_version(text).as_deref(), expected);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let _ = open("k", bytes);
        for mut image in [vmlinux(), bzimage(&vmlinux())] {
            for (at, value) in &flips {
                let at = at.index(image.len());
                image[at] = *value;
            }
            let _ = open("k", image);
        }
    }
}
