//! What one entry says, and what the base keeps of it.

use std::collections::BTreeMap;

use crate::archive::{GNU, Member, archive, seal};
use crate::image::{Content, File, Image};

fn files(members: &[Member]) -> BTreeMap<Vec<u8>, File> {
    let (file, _) = crate::base(&[archive(members)]).expect("the archive is good");
    Image::open(&file).files()
}

#[test]
fn owners_modes_times() {
    let files = files(&[
        Member::directory("./").mode(0o1777).owner(7, 8),
        Member::file("setuid", "x")
            .mode(0o104_755)
            .owner(4_000_000_000, 4_294_967_294),
        Member::file("pax", "x")
            .record("uid", "3000000000")
            .record("gid", "70000")
            .record("mtime", "-1.25"),
        Member::file("late", "x").record("mtime", "7258118400.999999999"),
        Member::file("implied/f", "x"),
    ]);
    let summary = |path: &str| {
        let file = &files[path.as_bytes()];
        (file.mode, file.uid, file.gid, file.mtime)
    };
    let time = 1_700_000_000;
    assert_eq!(summary(""), (0o041_777, 7, 8, (time, 0)));
    assert_eq!(
        summary("setuid"),
        (0o104_755, 4_000_000_000, 4_294_967_294, (time, 0))
    );
    assert_eq!(
        summary("pax"),
        (0o100_644, 3_000_000_000, 70_000, (-2, 750_000_000))
    );
    assert_eq!(summary("late").3, (7_258_118_400, 999_999_999));
    assert_eq!(summary("implied"), (0o040_755, 0, 0, (0, 0)));
}

#[test]
fn negative_time_in_the_header() {
    let mut bytes = archive(&[Member::file("a", "x")]);
    bytes[136..148].copy_from_slice(&[0xff; 12]);
    seal(&mut bytes);
    let (file, _) = crate::base(&[bytes]).unwrap();
    assert_eq!(Image::open(&file).files()[&b"a"[..]].mtime, (-1, 0));
}

#[test]
fn devices_and_fifos() {
    let files = files(&[
        Member::device(b'3', "char", 5, 1),
        Member::device(b'3', "char-0-1", 0, 1),
        Member::device(b'4', "block", 259, 0x12345),
        Member::device(b'4', "block-0-0", 0, 0),
        Member::new(b'6', "fifo"),
    ]);
    let summary = |path: &str| {
        let file = &files[path.as_bytes()];
        (file.mode & 0o170_000, file.device)
    };
    assert_eq!(summary("char"), (0o020_000, 0x501));
    assert_eq!(summary("char-0-1"), (0o020_000, 1));
    assert_eq!(summary("block"), (0o060_000, 0x1231_0345));
    assert_eq!(summary("block-0-0"), (0o060_000, 0));
    assert_eq!(summary("fifo"), (0o010_000, 0));
}

#[test]
fn attributes_in_every_spelling() {
    let acl = "user::rw-,user:alice:r--:1000,group::r--,mask::r--,other::---";
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let files = files(&[
        Member::file("f", "x")
            .xattr("user.a", "1")
            .xattr("user.a", "2")
            .xattr("trusted.t", b"\0\xff")
            .xattr("security.capability", capability)
            .xattr("trusted.overlay.origin", "dropped")
            .xattr("com.apple.quarantine", "dropped")
            .record("LIBARCHIVE.xattr.user.per%20cent", "aGVsbG8=")
            .record("RHT.security.selinux", "system_u:object_r:bin_t:s0\0")
            .record("SCHILY.acl.access", acl),
        Member::directory("d").record("SCHILY.acl.default", acl),
        Member::symlink("l", "f").xattr("security.selinux", "label"),
        Member::directory("over").xattr("user.old", "1"),
        Member::directory("over").xattr("user.new", "2"),
    ]);
    let names = |path: &str| -> Vec<&str> {
        files[path.as_bytes()]
            .xattrs
            .keys()
            .map(String::as_str)
            .collect()
    };
    assert_eq!(
        names("f"),
        [
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
            "trusted.t",
            "user.a",
            "user.per cent"
        ]
    );
    let f = &files[&b"f"[..]].xattrs;
    assert_eq!(f["user.a"], b"2");
    assert_eq!(f["user.per cent"], b"hello");
    assert_eq!(f["trusted.t"], b"\0\xff");
    assert_eq!(f["security.capability"], capability);
    assert_eq!(f["system.posix_acl_access"].len(), 4 + 5 * 8);
    assert_eq!(names("d"), ["system.posix_acl_default"]);
    assert_eq!(names("l"), ["security.selinux"]);
    assert_eq!(names("over"), ["user.new"]);
}

#[test]
fn long_and_odd_names() {
    let long = "n".repeat(255);
    let deep = [&long[..]; 15].join("/");
    let target = "t".repeat(4095);
    let odd = b"caf\xe9 \n\"'\\$(x)\xff";
    let gnu_name = |flag, text: &str| {
        let mut member = Member::new(flag, "././@LongLink").gnu();
        member.content = format!("{text}\0").into_bytes();
        member
    };
    let files = files(&[
        Member::file(&deep, "1"),
        Member::file(odd, "2"),
        Member::symlink("max", &target),
        Member::symlink("beside", "t".repeat(4032)),
        Member::symlink("apart", "t".repeat(4033)),
        gnu_name(b'L', &format!("gnu/{long}")),
        gnu_name(b'K', &format!("gnu/{target}")[..4095]),
        Member::new(b'2', "short").gnu(),
        Member::file("a".repeat(100), "3"),
    ]);
    assert_eq!(files[deep.as_bytes()].content, Content::File(b"1".into()));
    assert_eq!(files[&odd[..]].content, Content::File(b"2".into()));
    assert_eq!(
        files[&b"max"[..]].content,
        Content::Symlink(target.clone().into())
    );
    for (path, length) in [("beside", 4032), ("apart", 4033)] {
        assert_eq!(files[path.as_bytes()].size, length);
    }
    let gnu = &files[format!("gnu/{long}").as_bytes()].content;
    assert_eq!(
        *gnu,
        Content::Symlink(format!("gnu/{target}")[..4095].into())
    );
    assert!(files.contains_key("a".repeat(100).as_bytes()));
}

#[test]
fn a_prefix_is_part_of_the_name_in_ustar_only() {
    let prefixed = |magic: &'static [u8; 8], end: &[u8]| {
        let mut member = Member::file("name", "x");
        member.magic = magic;
        let mut bytes = archive(&[member]);
        bytes[345..348].copy_from_slice(b"pre");
        bytes[508..508 + end.len()].copy_from_slice(end);
        seal(&mut bytes);
        let (file, _) = crate::base(&[bytes]).unwrap();
        Image::open(&file).files().into_keys().next_back().unwrap()
    };
    assert_eq!(prefixed(b"ustar\x0000", b""), b"pre/name");
    assert_eq!(prefixed(b"ustar\x0000", b"tar\0"), b"pre/name");
    assert_eq!(prefixed(GNU, b""), b"name");
    assert_eq!(prefixed(&[0; 8], b""), b"name");
}

/// Three segments in a file of 1 MiB: the same file in every encoding there is.
#[test]
fn sparse_files() {
    const SIZE: usize = 1 << 20;
    let segments = [(0, "head"), (300_000, "middle"), (SIZE - 4, "tail")];
    let mut expected = vec![0; SIZE];
    for (offset, text) in segments {
        expected[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    }
    let stored = "headmiddletail";
    let with_size = |path: &str, key: &str| {
        Member::file(path, stored)
            .record(key, SIZE.to_string())
            .record("GNU.sparse.numblocks", "3")
    };
    let mut format_0_0 = with_size("0.0", "GNU.sparse.size");
    for (offset, text) in segments {
        format_0_0 = format_0_0
            .record("GNU.sparse.offset", offset.to_string())
            .record("GNU.sparse.numbytes", text.len().to_string());
    }
    let map: Vec<_> = segments
        .iter()
        .map(|(offset, text)| format!("{offset},{}", text.len()))
        .collect();
    let format_0_1 = with_size("stand-in", "GNU.sparse.size")
        .record("GNU.sparse.name", "0.1")
        .record("GNU.sparse.map", map.join(","));
    let mut format_1_0 = with_size("stand-in", "GNU.sparse.realsize")
        .record("GNU.sparse.major", "1")
        .record("GNU.sparse.minor", "0")
        .record("GNU.sparse.name", "1.0");
    let lines = format!("3\n{}\n", map.join("\n").replace(',', "\n"));
    format_1_0.content = lines.into_bytes();
    format_1_0.content.resize(512, 0);
    format_1_0.content.extend(stored.as_bytes());

    let mut gnu = Member::file("old", stored).gnu().bytes();
    gnu[156] = b'S';
    // Two pairs in the header, the third in a block of its own.
    let pair = |offset: usize, length: usize| format!("{offset:011o}\0{length:011o}\0");
    gnu[386..434].copy_from_slice(format!("{}{}", pair(0, 4), pair(300_000, 6)).as_bytes());
    gnu[482] = 1;
    gnu[483..494].copy_from_slice(format!("{SIZE:011o}").as_bytes());
    seal(&mut gnu);
    let mut block = [0; 512];
    block[..24].copy_from_slice(pair(SIZE - 4, 4).as_bytes());
    gnu.splice(512..512, block);

    let bytes = [gnu, archive(&[format_0_0, format_0_1, format_1_0])].concat();
    let (file, summary) = crate::base(&[bytes]).unwrap();
    // Of each file only the chunks with a segment are there.
    assert!(summary.size < 4 * 3 * 65536 + 3 * 4096, "{summary:?}");
    let files = Image::open(&file).files();
    assert_eq!(files.len(), 5);
    for path in ["old", "0.0", "0.1", "1.0"] {
        assert!(
            files[path.as_bytes()].content == Content::File(expected.clone()),
            "{path}"
        );
    }
}

#[test]
fn an_archive_may_hold_comments_labels_and_contiguous_files() {
    let mut comment = Member::new(b'g', "pax_global_header");
    comment.content = crate::archive::pax(&[(b"comment".to_vec(), b"0123".to_vec())]);
    let mut old_directory = Member::new(0, "old/");
    old_directory.magic = &[0; 8];
    let files = files(&[
        comment,
        Member::new(b'V', "label").gnu(),
        Member {
            flag: b'7',
            ..Member::file("contiguous", "x")
        },
        old_directory,
        // A size here means nothing: no content follows.
        Member::directory("sized").size(1000),
        Member::hard_link("link", "contiguous").size(1),
    ]);
    let paths: Vec<_> = files
        .keys()
        .map(|path| String::from_utf8_lossy(path))
        .collect();
    assert_eq!(paths, ["", "contiguous", "link", "old", "sized"]);
    assert_eq!(files[&b"old"[..]].content, Content::Directory);
}
