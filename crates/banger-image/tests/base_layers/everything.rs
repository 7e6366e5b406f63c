//! One of everything a host can make, for others to pack.

use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

/// Needs root: for owners, devices and attributes.
pub fn everything(root: &Path) {
    let at = |name: &str| root.join(name);
    let odd = root.join(std::ffi::OsStr::from_bytes(b"caf\xe9 \"'\\$\nx"));
    fs::create_dir_all(at("dir/sub")).expect("make a directory");
    for (path, length) in [
        ("empty", 0),
        ("one", 1),
        ("tail", 5000),
        ("block", 8192),
        ("big", 300_000),
    ] {
        let content: Vec<u8> = (0..length).map(|n: u32| (n / 3) as u8).collect();
        fs::write(at(path), content).expect("write a file");
    }
    fs::write(&odd, "odd").expect("write a file");
    fs::write(at(&"n".repeat(255)), "long").expect("write a file");
    let deep = at("dir").join(["p".repeat(200).as_str(); 4].join("/"));
    fs::create_dir_all(&deep).expect("make a directory");
    fs::write(deep.join("deep"), "deep").expect("write a file");
    for (name, target) in [
        ("short", "one"),
        ("dangling", "/no/where"),
        ("long", &"t/".repeat(2047)),
    ] {
        symlink(target, at("dir").join(name)).expect("make a symlink");
    }
    fs::hard_link(at("big"), at("dir/sub/big-too")).expect("link");
    fs::hard_link(at("dir/short"), at("short-too")).expect("link");
    for (name, kind, major, minor) in [
        ("char", FileType::CharacterDevice, 1, 3),
        ("block", FileType::BlockDevice, 259, 70_000),
        ("fifo", FileType::Fifo, 0, 0),
    ] {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, at("dir").join(name), kind, mode, makedev(major, minor)).expect("mknod");
    }
    let sparse = File::create(at("sparse")).expect("make a file");
    sparse.set_len(40 << 20).expect("lengthen");
    for (offset, byte) in [(0, b'a'), (7 << 20, b'b'), ((40 << 20) - 4096, b'c')] {
        sparse.write_all_at(&[byte; 4096], offset).expect("write");
    }
    File::create(at("hole"))
        .expect("make a file")
        .set_len(1 << 20)
        .expect("lengthen");

    chown(at("one"), Some(4_000_000_000), Some(70_000)).expect("chown");
    lchown(at("dir/dangling"), Some(12), Some(13)).expect("chown");
    for (path, mode) in [
        ("tail", 0o4755),
        ("block", 0o2711),
        ("dir/sub", 0o1777),
        ("empty", 0o000),
    ] {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl: Vec<u8> = [
        &[2, 0, 0, 0][..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 232, 3, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    for (path, name, value) in [
        ("big", "security.capability", &capability[..]),
        ("big", "user.note", b"\0binary\xff"),
        ("big", "trusted.note", &[b't'; 3000]),
        ("dir/sub", "system.posix_acl_default", &acl),
        ("tail", "system.posix_acl_access", &acl),
        ("dir", "user.note", b"on a directory"),
    ] {
        rustix::fs::lsetxattr(at(path), name, value, XattrFlags::empty())
            .expect("set an attribute");
    }
    let epoch = SystemTime::UNIX_EPOCH;
    for (path, time) in [
        ("one", epoch + Duration::new(1_700_000_000, 123_456_789)),
        ("tail", epoch - Duration::new(100, 250_000_000)),
        ("block", epoch + Duration::from_secs(7_258_118_400)),
        ("dir/sub", epoch + Duration::new(5, 6)),
    ] {
        let file = File::open(at(path)).expect("open");
        file.set_times(FileTimes::new().set_modified(time))
            .expect("set times");
    }
}
