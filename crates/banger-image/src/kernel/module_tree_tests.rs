//! Load orders as tables, and their two laws as properties.

use proptest::prelude::*;

use super::*;

/// `name: depends ~ softdep pre = aliases`, comma-separated each.
fn module(line: &str) -> Module {
    let (head, aliases) = line.split_once('=').unwrap_or((line, ""));
    let (head, soft) = head.split_once('~').unwrap_or((head, ""));
    let (name, depends) = head.split_once(':').unwrap_or((head, ""));
    let list = |text: &str| {
        text.split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    Module {
        path: format!("kernel/{}.ko", name.trim()),
        info: ModInfo {
            name: name.trim().into(),
            depends: list(depends),
            softdep_pre: list(soft),
            aliases: list(aliases),
            ..ModInfo::default()
        },
    }
}

fn tree(lines: &[&str], builtin: Option<&str>) -> ModuleTree {
    let mut tree = ModuleTree::default();
    for line in lines {
        tree.insert(module(line));
    }
    if let Some(names) = builtin {
        let text: String = names
            .split_whitespace()
            .map(|n| format!("kernel/{n}.ko\n"))
            .collect();
        tree.set_builtin(&text);
    }
    tree
}

fn order(tree: &ModuleTree, wanted: &str) -> Result<String, String> {
    tree.load_order(wanted.split_whitespace())
        .map(|modules| {
            modules
                .iter()
                .map(|m| m.info.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .map_err(|e| e.to_string())
}

#[test]
fn orders() {
    let ext4 = [
        "ext4: mbcache,jbd2 ~ crc32c",
        "jbd2",
        "mbcache",
        "crc32c_generic = crypto-crc32c,crc32c",
        "crc32c_intel = crypto-crc32c,crc32c,cpu:type:x86",
    ];
    let cases: &[(&[&str], Option<&str>, &str, &str)] = &[
        (&["a: b", "b: c", "c"], Some(""), "a", "c b a"),
        (&["a: b,c", "b: d", "c: d", "d"], Some(""), "a", "d b c a"),
        (&["a: b", "b"], Some(""), "b a", "b a"),
        (&["a: b"], Some("b"), "a", "a"),
        (&["a"], None, "missing a", "a"),
        // The generic provider, not the one that only some processors can load.
        (&ext4, Some(""), "ext4", "crc32c_generic mbcache jbd2 ext4"),
        // A built-in provider is enough.
        (&["ext4 ~ crc32c"], Some("crc32c"), "ext4", "ext4"),
        // What a softdep names may be missing.
        (&["ext4 ~ crc32c"], Some(""), "ext4", "ext4"),
        // Two modules that softly want each other.
        (&["a ~ b", "b ~ a"], Some(""), "a", "b a"),
    ];
    for (lines, builtin, wanted, expected) in cases {
        assert_eq!(
            order(&tree(lines, *builtin), wanted).as_deref(),
            Ok(*expected),
            "{lines:?}"
        );
    }
}

#[test]
fn what_cannot_be_ordered_is_refused() {
    let cases: &[(&[&str], Option<&str>, &str)] = &[
        (&["a: a"], Some(""), "module a depends on itself"),
        (
            &["a: b", "b: c", "c: b"],
            Some(""),
            "module b depends on itself",
        ),
        (
            &["a: b"],
            Some("x"),
            "module a needs b, which is neither a module nor built in",
        ),
        (
            &["a: b"],
            None,
            "module a needs b, which is neither a module nor built in",
        ),
    ];
    for (lines, builtin, expected) in cases {
        assert_eq!(
            order(&tree(lines, *builtin), "a"),
            Err((*expected).to_owned()),
            "{lines:?}"
        );
    }
}

#[test]
fn builtin_modinfo_names_aliases() {
    let mut tree = tree(
        &["ext4 ~ crc32c", "other = crypto-crc32c"],
        Some("crc32c_generic"),
    );
    assert_eq!(order(&tree, "ext4").as_deref(), Ok("other ext4"));
    tree.set_builtin_info(b"crc32c_generic.alias=crypto-crc32c\0crc32c_generic.license=GPL\0");
    assert_eq!(order(&tree, "ext4").as_deref(), Ok("ext4"));
}

#[test]
fn a_chain_as_long_as_an_archive_can_be_needs_no_stack() {
    let mut tree = ModuleTree::default();
    let last = 60_000;
    for n in 0..last {
        tree.insert(module(&format!("m{n}: m{}", n + 1)));
    }
    tree.insert(module(&format!("m{last}")));
    assert_eq!(tree.load_order(["m0"]).unwrap().len(), last + 1);
}

proptest! {
    /// Every module after all it depends on, and none twice.
    #[test]
    fn order_respects_dependencies(
        edges in proptest::collection::vec((0usize..30, 0usize..30), 0..120),
        wanted in proptest::collection::vec(0usize..30, 1..6),
    ) {
        let mut tree = ModuleTree::default();
        let mut needs = vec![Vec::new(); 30];
        for (from, to) in edges {
            // Only edges to smaller numbers: no circle.
            if to < from {
                needs[from].push(format!("m{to}"));
            }
        }
        for (n, needs) in needs.iter().enumerate() {
            tree.insert(module(&format!("m{n}: {}", needs.join(","))));
        }
        let names: Vec<String> = wanted.iter().map(|n| format!("m{n}")).collect();
        let order = tree.load_order(names.iter().map(String::as_str)).unwrap();
        let mut seen = BTreeSet::new();
        for module in &order {
            for need in &module.info.depends {
                prop_assert!(seen.contains(need.as_str()));
            }
            prop_assert!(seen.insert(module.info.name.as_str()));
        }
        for name in &names {
            prop_assert!(seen.contains(name.as_str()));
        }
    }
}
