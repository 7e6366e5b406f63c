//! Archives made by hand: what is found in them, and what is refused.

use std::path::Path;

use super::*;

/// ustar members: path, type flag, content.
/// Name, type flag and content.
type Member<'a> = (&'a str, u8, &'a [u8]);

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, flag, data) in members {
        let mut header = [0u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = *flag;
        if matches!(flag, b'1' | b'2') {
            header[157..164].copy_from_slice(b"/etc/pw");
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(*data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend([0; 1024]);
    out
}

fn read_tar(members: &[(&str, u8, &[u8])]) -> Result<Contents, String> {
    let dir = tempfile::tempdir().unwrap();
    read(&tar(members)[..], dir.path()).map_err(|e| e.to_string())
}

#[test]
fn roles() {
    let module = |tree: &str, path: &str| Role::Module {
        tree: tree.into(),
        path: path.into(),
    };
    for (path, expected) in [
        ("vmlinux", Role::Image),
        ("boot/vmlinuz-6.1.0-1-amd64", Role::Image),
        ("arch/x86/boot/bzImage", Role::Image),
        ("lib/modules/6.1.0/vmlinuz", Role::Image),
        ("vmlinux-gdb.py", Role::Nothing),
        ("vmlinux.o", Role::Nothing),
        ("System.map", Role::Nothing),
        (
            "lib/modules/6.1.0/kernel/fs/x.ko.xz",
            module("lib/modules/6.1.0", "kernel/fs/x.ko"),
        ),
        (
            "usr/lib/modules/6.1.0/updates/x.ko",
            module("usr/lib/modules/6.1.0", "updates/x.ko"),
        ),
        ("modules/kernel/x.ko", module("modules", "kernel/x.ko")),
        (
            "modules/6.1/kernel/x.ko",
            module("modules/6.1", "kernel/x.ko"),
        ),
        ("modules/9p.ko", module("modules", "9p.ko")),
        ("x.ko", Role::Nothing),
        ("mymodules/x.ko", Role::Nothing),
        (
            "lib/modules/6.1.0/modules.builtin",
            Role::Builtin {
                tree: "lib/modules/6.1.0".into(),
            },
        ),
        (
            "modules/modules.builtin.modinfo",
            Role::BuiltinInfo {
                tree: "modules".into(),
            },
        ),
        ("lib/modules/6.1.0/kernel/modules.builtin", Role::Nothing),
    ] {
        assert_eq!(role(path), expected, "{path}");
    }
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    for path in ["../vmlinux", "a/../../vmlinux", "/vmlinux", "a/..", "./.."] {
        let error = read_tar(&[(path, b'0', b"x")]).unwrap_err();
        assert!(error.starts_with("refused"), "{path}: {error}");
    }
}

#[test]
fn links_and_devices_are_passed_over() {
    let contents = read_tar(&[
        ("vmlinux", b'2', b""),
        ("boot/vmlinuz", b'1', b""),
        ("lib", b'2', b""),
        ("dev/x", b'3', b""),
        ("boot/vmlinuz-6.1", b'0', b"image"),
        ("notes", b'0', b"x"),
    ])
    .unwrap();
    assert_eq!(
        contents.images,
        [("boot/vmlinuz-6.1".to_owned(), b"image".to_vec())]
    );
}

#[test]
fn a_lone_file_is_an_image_whatever_its_name() {
    let contents = read_tar(&[("my-kernel", b'0', b"image")]).unwrap();
    assert_eq!(contents.images.len(), 1);
    let contents = read_tar(&[("a", b'0', b"x"), ("b", b'0', b"x")]).unwrap();
    assert!(contents.images.is_empty());
}

fn assembled(members: &[Member<'_>]) -> Result<assemble::Assembled, String> {
    let dir = tempfile::tempdir().unwrap();
    let (spill, target) = (dir.path().join("s"), dir.path().join("t"));
    std::fs::create_dir(&spill).unwrap();
    std::fs::create_dir(&target).unwrap();
    read(&tar(members)[..], &spill)
        .and_then(|contents| assemble::assemble(contents, Path::new(&target)))
        .map_err(|e| e.to_string())
}

#[test]
fn what_holds_no_kernel_or_two_is_refused() {
    let cases: &[(&[Member<'_>], &str)] = &[
        (&[], "no kernel image found among the 0 files given"),
        (
            &[("a", b'0', b"x"), ("b", b'0', b"x")],
            "no kernel image found among the 2 files given",
        ),
        (
            &[("vmlinux", b'0', b"x"), ("boot/bzImage", b'0', b"x")],
            "more than one kernel image found: vmlinux, boot/bzImage",
        ),
        (
            &[("vmlinux", b'0', b"hello")],
            "vmlinux is not a Linux kernel image: it is neither an ELF file nor a bzImage",
        ),
        (
            &[("lib/modules/6.1/kernel/x.ko", b'0', b"hello")],
            "kernel/x.ko is not a usable kernel module: ",
        ),
    ];
    for (members, expected) in cases {
        let error = assembled(members).unwrap_err();
        assert!(error.starts_with(expected), "{expected}: {error}");
    }
}

#[test]
fn a_cut_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar(&[("vmlinux", b'0', &[7; 2000])]);
    for cut in [513, 1500, 2000] {
        let error = read(&whole[..cut], dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the archive"), "{error}");
    }
}

#[test]
fn lying_sizes_are_refused_before_they_are_read() {
    let mut header = tar(&[("vmlinux", b'0', b"")]);
    // 8 GiB - 1 in octal, checksum to match.
    header[124..136].copy_from_slice(b"77777777777\0");
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        read(&header[..], dir.path()),
        Err(KernelError::TooLarge { .. })
    ));
}
