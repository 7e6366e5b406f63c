//! What is not taken, and what is said about it.

use banger_image::decompress::Compression;
use banger_image::digest::Digest;
use banger_image::layers::{BaseError, BaseWriter};
use banger_image::limits::Limits;

use crate::archive::{Member, archive, pax, seal};
use crate::script::layer;
use crate::{base, chain};

fn refused(name: &str, layers: &[Vec<u8>], text: &str) {
    match base(layers) {
        Ok(_) => panic!("{name}: taken"),
        Err(error) => assert_eq!(chain(&error), text, "{name}"),
    }
}

#[test]
fn entries() {
    let long = "n".repeat(256);
    let entry = |path: &str, text: &str| format!("the layer's entry `{path}` is refused: {text}");
    let link_loop = format!(
        "s l0=l1; {}",
        (1..50)
            .map(|n| format!("s l{n}=l{}; ", n + 1))
            .collect::<String>()
    );
    for (layers, path, text) in [
        (&["f a/../b=1"][..], "a/../b", "its path contains `..`"),
        (&["f ..=1"], "..", "its path contains `..`"),
        (
            &[&format!("f {long}=1")],
            &long,
            "a component of its path is longer than 255 bytes",
        ),
        (
            &["f .=1"],
            ".",
            "it is the root directory, but not a directory",
        ),
        (&["f .wh.=1"], ".wh.", "`.wh.` is reserved for whiteouts"),
        (
            &["f .wh.a/b=1"],
            ".wh.a/b",
            "`.wh.a` is reserved for whiteouts",
        ),
        (
            &["s l=.wh.x; f l/b=1"],
            "l/b",
            "`.wh.x` is reserved for whiteouts",
        ),
        (
            &["f a=1; f a/b=1"],
            "a/b",
            "its parent `a` is not a directory",
        ),
        (
            &["p a; s l=a; f l/b=1"],
            "l/b",
            "its parent `a` is not a directory",
        ),
        (
            &["s a=b; s b=a; f a/x=1"],
            "a/x",
            "its path has too many levels of symbolic links",
        ),
        (
            &["s a=a; f a/x=1"],
            "a/x",
            "its path has too many levels of symbolic links",
        ),
        (
            &["s a=.//a/.; f a/.wh.x=1"],
            "a/.wh.x",
            "its path has too many levels of symbolic links",
        ),
        (
            &[&format!("{link_loop} f l0/x=1")],
            "l0/x",
            "its path has too many levels of symbolic links",
        ),
        (
            &["h a=b"],
            "a",
            "it is a hard link to `b`, which does not exist",
        ),
        (
            &["h a=b/c"],
            "a",
            "it is a hard link to `b/c`, which does not exist",
        ),
        (
            &["h a=a"],
            "a",
            "it is a hard link to `a`, which does not exist",
        ),
        (
            &["f b=1", "f .wh.b=; h a=b"],
            "a",
            "it is a hard link to `b`, which does not exist",
        ),
        (
            &["d b; h a=b"],
            "a",
            "it is a hard link to the directory `b`",
        ),
        (&["h a=/"], "a", "it is a hard link to the directory `/`"),
        (
            &["f b=1; h a=../b"],
            "a",
            "the target of a link is refused: its path contains `..`",
        ),
        (
            &["s a="],
            "a",
            "its symlink target is empty or longer than 4095 bytes",
        ),
    ] {
        let layers: Vec<_> = layers.iter().map(|text| layer(text)).collect();
        // A message holds at most 256 characters of a path; all of these are shorter.
        refused(path, &layers, &entry(path, text));
    }
}

#[test]
fn members() {
    let many = "d/".repeat(2049);
    let shown = format!("{}…", "d/".repeat(128));
    let value = vec![b'x'; 65_536];
    for (member, path, text) in [
        (
            Member::file(&many, "x"),
            &shown[..],
            "its path is longer than 4096 bytes",
        ),
        (
            Member::symlink("a", "t".repeat(4096)),
            "a",
            "its symlink target is empty or longer than 4095 bytes",
        ),
        (
            Member::device(b'3', "a", 0, 0),
            "a",
            "a character device 0:0 is how overlayfs marks a whiteout",
        ),
        (
            Member::directory("a").xattr("trusted.overlay.opaque", "y"),
            "a",
            "overlayfs would obey its attribute `trusted.overlay.opaque`",
        ),
        (
            Member::directory("a").record("LIBARCHIVE.xattr.user.overlay.redirect", "L2V0Yw"),
            "a",
            "overlayfs would obey its attribute `user.overlay.redirect`",
        ),
        (
            Member::file("a", "").xattr("user.a", value),
            "a",
            "its attribute `user.a` is refused: its value is longer than 65535 bytes",
        ),
        (
            Member::file("a", "").xattr("system.posix_acl_access", "x"),
            "a",
            "its attribute `system.posix_acl_access` is refused: it is not a POSIX access control list",
        ),
        (
            Member::file("a", "")
                .record("GNU.sparse.map", "0,0")
                .record("GNU.sparse.size", "9223372036854775807"),
            "a",
            "its size of 9223372036854775807 bytes is more than 1125899906842624",
        ),
        (
            Member::file("a", "x").size(1 << 62),
            "a",
            "its size of 4611686018427387904 bytes is more than 1125899906842624",
        ),
    ] {
        let text = format!("the layer's entry `{path}` is refused: {text}");
        refused(path, &[archive(&[member])], &text);
    }
}

#[test]
fn archives() {
    let file = |size| Member::file("a", "x").size(size);
    let with_bytes = |at: usize, bytes: &[u8]| {
        let mut archive = archive(&[Member::file("a", "x")]);
        archive[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut archive);
        archive
    };
    let good = archive(&[Member::file("a", vec![b'x'; 2000])]);
    let mut bad_sum = good.clone();
    bad_sum[0] ^= 1;
    let mut global = Member::new(b'g', "g");
    global.content = pax(&[(b"path".to_vec(), b"b".to_vec())]);
    let mut giant = Member::new(b'x', "x").size(1 << 33).bytes();
    giant.extend([0; 4096]);
    let mut long_name = Member::new(b'L', "x").gnu();
    long_name.content = b"a\0b".to_vec();
    let record = |key: &str, value: &str| archive(&[Member::file("a", "x").record(key, value)]);
    let bad_record = |content: &[u8]| {
        let mut extension = Member::new(b'x', "x");
        extension.content = content.to_vec();
        archive(&[extension, Member::file("a", "x")])
    };
    for (name, bytes, offset, text) in [
        ("empty", Vec::new(), 0, "the archive has no end marker"),
        (
            "no marker",
            good[..512 + 2048].to_vec(),
            2560,
            "the archive has no end marker",
        ),
        (
            "cut header",
            good[..100].to_vec(),
            100,
            "the archive ends in the middle of a header",
        ),
        (
            "cut file",
            good[..1000].to_vec(),
            1000,
            "the archive ends in the middle of a file",
        ),
        (
            "cut padding",
            good[..2513].to_vec(),
            2513,
            "the archive ends in the middle of a file's padding",
        ),
        ("checksum", bad_sum, 512, "the header's checksum is wrong"),
        (
            "text",
            vec![b'x'; 1024],
            512,
            "the header's checksum is not a number",
        ),
        (
            "lying size",
            [file(5000).bytes(), vec![0; 1024]].concat(),
            2048,
            "the archive ends in the middle of a file",
        ),
        (
            "huge size",
            [file(1 << 50).bytes(), vec![0; 1024]].concat(),
            2048,
            "the archive ends in the middle of a file",
        ),
        (
            "size of 2^63",
            with_bytes(124, &[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            512,
            "the size beyond 64 bits is out of range",
        ),
        (
            "negative size",
            with_bytes(124, &[0xff; 12]),
            512,
            "the size -1 is out of range",
        ),
        (
            "no size",
            with_bytes(124, b"12345xyz"),
            512,
            "the header's size is not a number",
        ),
        (
            "no uid",
            with_bytes(108, &[0xff; 8]),
            512,
            "the uid -1 is out of range",
        ),
        (
            "uid of all ones",
            record("uid", "4294967295"),
            1024,
            "the uid 4294967295 is out of range",
        ),
        (
            "type",
            with_bytes(156, b"M"),
            512,
            "entries of type `M` are not supported",
        ),
        (
            "type",
            with_bytes(156, b"\n"),
            512,
            "entries of type `\\n` are not supported",
        ),
        (
            "type",
            with_bytes(156, b"S"),
            512,
            "entries of type `S` are not supported",
        ),
        (
            "global",
            archive(&[global]),
            1024,
            "a global extended header sets `path`",
        ),
        (
            "giant",
            giant,
            512,
            "an extended header of 8589934592 bytes is longer than 1048576",
        ),
        (
            "name",
            archive(&[long_name, Member::file("a", "x")]),
            1024,
            "a name contains a NUL byte",
        ),
        (
            "name",
            record("path", "a\0b"),
            1024,
            "a name contains a NUL byte",
        ),
        (
            "size",
            record("size", "-1"),
            1024,
            "the header's size is not a number",
        ),
        (
            "mtime",
            record("mtime", "now"),
            1024,
            "the header's mtime is not a number",
        ),
        (
            "record",
            bad_record(b"9 a=b\n"),
            1024,
            "an extended header is malformed: a record is longer than the header",
        ),
        (
            "record",
            bad_record(b"5 a=b\n"),
            1024,
            "an extended header is malformed: a record does not end in a newline",
        ),
        (
            "lonely",
            bad_record(b"")[..512].to_vec(),
            512,
            "the archive ends in the middle of a header",
        ),
        (
            "lonely",
            [&bad_record(b"")[..512], &[0; 1024]].concat(),
            1024,
            "the archive ends in the middle of an extended header",
        ),
        (
            "acl",
            record(
                "SCHILY.acl.access",
                "user::rw-,user:alice:r--,group::r--,mask::r--,other::r--",
            ),
            1024,
            "the access control list names `alice` without a numeric id",
        ),
        (
            "acl",
            record("SCHILY.acl.ace", "x"),
            1024,
            "NFSv4 access control lists are not supported",
        ),
        (
            "sparse",
            record("GNU.sparse.map", "0,1"),
            1536,
            "the sparse map is malformed: the file's size is missing",
        ),
        (
            "sparse",
            record("GNU.sparse.major", "2"),
            1536,
            "the sparse map is malformed: its version is not supported",
        ),
    ] {
        let text = format!("the layer is not a valid tar archive at byte {offset}: {text}");
        refused(name, &[bytes], &text);
    }
}

#[test]
fn sparse_maps() {
    let sparse = |map: &str| {
        archive(&[Member::file("a", "0123456789")
            .record("GNU.sparse.size", "100")
            .record("GNU.sparse.map", map)])
    };
    assert!(base(&[sparse("0,4,50,6")]).is_ok());
    for map in [
        "0,10,5,0",
        "50,4,0,6",
        "0,4,96,6",
        "0,4",
        "0,11",
        "0",
        "18446744073709551615,10",
    ] {
        assert!(base(&[sparse(map)]).is_err(), "{map}");
    }
    // A chain of map blocks that adds nothing.
    let mut member = Member::file("a", "").gnu().bytes();
    member[156] = b'S';
    member[482] = 1;
    member[483..494].copy_from_slice(b"00000000000");
    seal(&mut member);
    let mut block = [0; 512];
    block[504] = 1;
    member.extend(block.repeat(3));
    let error = base(&[member]).unwrap_err();
    assert!(
        chain(&error).ends_with("an empty block is continued"),
        "{error:?}"
    );
}

#[test]
fn a_digest_that_differs() {
    let bytes = layer("f a=1");
    let expected = Digest::of(b"something else");
    let mut file = Vec::new();
    let mut writer = BaseWriter::new(&mut file, Limits::default());
    let error = writer
        .add_layer(&bytes[..], Compression::Plain, Some(expected))
        .unwrap_err();
    let found = Digest::of(&bytes);
    assert_eq!(
        error.to_string(),
        format!("the layer's content has the digest {found} instead of {expected}")
    );
    // Nothing can be made of what is left.
    let again = writer.add_layer(&bytes[..], Compression::Plain, None);
    assert!(matches!(again, Err(BaseError::Poisoned)));
    assert!(matches!(writer.finish(), Err(BaseError::Poisoned)));
    assert!(
        file.iter().take(4096).all(|byte| *byte == 0),
        "no superblock"
    );
}

#[test]
fn the_digest_is_that_of_the_whole_stream() {
    let mut bytes = layer("f a=1");
    bytes.extend(b"behind the end marker");
    let expected = Digest::of(&bytes);
    let mut writer = BaseWriter::new(Vec::new(), Limits::default());
    let summary = writer
        .add_layer(&bytes[..], Compression::Auto, Some(expected))
        .unwrap();
    assert_eq!(summary.diff_id, expected);
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(summary.entries, 1);
    // Where a digest vouches for it, an archive without end marker is whole.
    let bytes = &layer("f a=1")[..1024];
    writer
        .add_layer(bytes, Compression::Plain, Some(Digest::of(bytes)))
        .unwrap();
}
