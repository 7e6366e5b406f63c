//! The text files as goldens; the binary ones read back by a reader written from the format's
//! description. kmod itself reads them in `tests/kernel_pull.rs`.

use proptest::prelude::*;

use super::super::modinfo::ModInfo;
use super::*;

fn tree() -> ModuleTree {
    let mut tree = ModuleTree::default();
    for (name, depends, aliases, pre) in [
        (
            "a",
            &["b", "c"][..],
            &["char-major-10-200", "pci:v[0-9]*d-x"][..],
            &[][..],
        ),
        ("b", &["c"], &[], &["crc32c"]),
        ("c", &[], &[], &[]),
    ] {
        let list = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        tree.insert(Module {
            path: format!("kernel/{name}.ko"),
            info: ModInfo {
                name: name.into(),
                depends: list(depends),
                softdep_pre: list(pre),
                aliases: list(aliases),
                ..ModInfo::default()
            },
        });
    }
    tree.set_builtin("kernel/ext4.ko\n");
    tree.set_builtin_info(b"ext4.alias=fs-ext4\0");
    tree
}

fn file(name: &str) -> Vec<u8> {
    let tree = tree();
    let kept = tree.load_order(["a"]).unwrap();
    render(&tree, &kept)
        .unwrap()
        .into_iter()
        .find(|(file, _)| *file == name)
        .unwrap()
        .1
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

#[test]
fn text_files() {
    assert_eq!(
        text("modules.dep"),
        "kernel/c.ko:\nkernel/b.ko: kernel/c.ko\nkernel/a.ko: kernel/b.ko kernel/c.ko\n"
    );
    assert_eq!(
        text("modules.alias"),
        "alias char-major-10-200 a\nalias pci:v[0-9]*d-x a\n"
    );
    assert_eq!(text("modules.softdep"), "softdep b pre: crc32c\n");
    assert_eq!(
        text("modules.order"),
        "kernel/c.ko\nkernel/b.ko\nkernel/a.ko\n"
    );
}

/// Every key of an index with its values.
fn decode(bytes: &[u8]) -> BTreeMap<String, Vec<String>> {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4)), (MAGIC, VERSION));
    let mut found = BTreeMap::new();
    let mut stack = vec![(word(8), Vec::new())];
    while let Some((offset, mut key)) = stack.pop() {
        let mut at = (offset & 0x0fff_ffff) as usize;
        let string = |at: &mut usize| {
            let end = *at + bytes[*at..].iter().position(|&b| b == 0).unwrap();
            let text = bytes[*at..end].to_vec();
            *at = end + 1;
            text
        };
        if offset & HAS_PREFIX != 0 {
            key.extend(string(&mut at));
        }
        if offset & HAS_CHILDREN != 0 {
            let (first, last) = (bytes[at], bytes[at + 1]);
            at += 2;
            for byte in first..=last {
                let child = word(at);
                at += 4;
                if child != 0 {
                    stack.push((child, [&key[..], &[byte]].concat()));
                }
            }
        }
        if offset & HAS_VALUES != 0 {
            let count = word(at);
            at += 4;
            let values = (0..count)
                .map(|_| {
                    at += 4;
                    String::from_utf8(string(&mut at)).unwrap()
                })
                .collect();
            found.insert(String::from_utf8(key).unwrap(), values);
        }
    }
    found
}

#[test]
fn binary_files() {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), vec![value.to_owned()]))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        decode(&file("modules.dep.bin")),
        map(&[
            ("a", "kernel/a.ko: kernel/b.ko kernel/c.ko"),
            ("b", "kernel/b.ko: kernel/c.ko"),
            ("c", "kernel/c.ko:"),
        ])
    );
    assert_eq!(
        decode(&file("modules.alias.bin")),
        map(&[("char_major_10_200", "a"), ("pci:v[0-9]*d_x", "a")])
    );
    assert_eq!(decode(&file("modules.builtin.bin")), map(&[("ext4", "")]));
    assert_eq!(
        decode(&file("modules.builtin.alias.bin")),
        map(&[("fs_ext4", "ext4")])
    );
    assert_eq!(decode(&file("modules.symbols.bin")), map(&[]));
}

proptest! {
    #[test]
    fn any_keys_come_back(
        entries in proptest::collection::vec(("[a-d]{1,6}", "[a-z ]{0,8}"), 0..60),
    ) {
        let mut trie = Trie::default();
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (rank, (key, value)) in entries.iter().enumerate() {
            trie.insert(key, rank as u32, value);
            expected.entry(key.clone()).or_default().push(value.clone());
        }
        prop_assert_eq!(decode(&trie.encode()), expected);
    }
}
