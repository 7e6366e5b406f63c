//! The index files of `/lib/modules/VERSION` that modprobe reads. Pure.
//!
//! busybox reads the text files, kmod only the `.bin` ones; we write both, since a guest may have
//! either and a minimal image has no depmod. The binary format is kmod's `libkmod-index.h`:
//! a trie over the keys, big-endian offsets, children before parents.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::KernelError;

use super::module_tree::{Module, ModuleTree};

/// File name and contents, ready to be written into `modules/`.
pub type IndexFile = (&'static str, Vec<u8>);

/// All index files for the modules kept.
pub fn render(tree: &ModuleTree, kept: &[&Module]) -> Result<Vec<IndexFile>, KernelError> {
    let mut dep = String::new();
    let mut dep_index = Trie::default();
    let mut alias = String::new();
    let mut alias_index = Trie::default();
    let mut softdep = String::new();
    let mut order = String::new();
    for (rank, module) in kept.iter().enumerate() {
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        let info = &module.info;
        let line = dep_line(tree, module)?;
        let _ = writeln!(dep, "{line}");
        dep_index.insert(&info.name, rank, &line);
        for pattern in &info.aliases {
            let _ = writeln!(alias, "alias {pattern} {}", info.name);
            alias_index.insert(&canonical_pattern(pattern), rank, &info.name);
        }
        if !info.softdep_pre.is_empty() || !info.softdep_post.is_empty() {
            let _ = write!(softdep, "softdep {}", info.name);
            for (word, list) in [("pre:", &info.softdep_pre), ("post:", &info.softdep_post)] {
                if !list.is_empty() {
                    let _ = write!(softdep, " {word} {}", list.join(" "));
                }
            }
            softdep.push('\n');
        }
        let _ = writeln!(order, "{}", module.path);
    }
    let mut builtin_index = Trie::default();
    for name in tree.builtin() {
        builtin_index.insert(name, 0, "");
    }
    let mut builtin_alias_index = Trie::default();
    for (pattern, name) in tree.builtin_aliases() {
        builtin_alias_index.insert(pattern, 0, name);
    }
    Ok(vec![
        ("modules.dep", dep.into_bytes()),
        ("modules.dep.bin", dep_index.encode()),
        ("modules.alias", alias.into_bytes()),
        ("modules.alias.bin", alias_index.encode()),
        ("modules.softdep", softdep.into_bytes()),
        ("modules.order", order.into_bytes()),
        ("modules.symbols.bin", Trie::default().encode()),
        ("modules.builtin.bin", builtin_index.encode()),
        ("modules.builtin.alias.bin", builtin_alias_index.encode()),
    ])
}

/// `PATH: NEEDS…`, the needs in reverse load order, as modprobe works them off from the right.
fn dep_line(tree: &ModuleTree, module: &Module) -> Result<String, KernelError> {
    let mut line = format!("{}:", module.path);
    let order = hard_order(tree, module)?;
    for need in order.iter().rev() {
        let _ = write!(line, " {}", need.path);
    }
    Ok(line)
}

/// What `module` needs by `depends` alone: softdeps have a file of their own.
fn hard_order<'a>(
    tree: &'a ModuleTree,
    module: &'a Module,
) -> Result<Vec<&'a Module>, KernelError> {
    let mut needed = BTreeMap::new();
    let mut queue = vec![module];
    while let Some(next) = queue.pop() {
        for name in &next.info.depends {
            if let Some(found) = tree.get(name)
                && needed.insert(name.as_str(), found).is_none()
            {
                queue.push(found);
            }
        }
    }
    let order = tree.load_order([module.info.name.as_str()])?;
    Ok(order
        .into_iter()
        .filter(|m| needed.contains_key(m.info.name.as_str()))
        .collect())
}

/// kmod looks aliases up with `_` for `-`, except inside brackets, where `-` is a range.
fn canonical_pattern(pattern: &str) -> String {
    let mut in_brackets = false;
    pattern
        .chars()
        .map(|c| match c {
            '[' => {
                in_brackets = true;
                c
            }
            ']' => {
                in_brackets = false;
                c
            }
            '-' if !in_brackets => '_',
            c => c,
        })
        .collect()
}

/// A value and its priority.
type Value = (u32, Vec<u8>);
/// A key with its values.
type Keyed<'a> = (&'a [u8], &'a [Value]);

/// A trie in the making. Keys that are not 7-bit, or hold NUL, cannot be in such a file and are
/// left out: no module of any kernel has one.
#[derive(Default)]
struct Trie {
    entries: BTreeMap<Vec<u8>, Vec<Value>>,
}

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// kmod's readers walk the trie recursively, and so do we: no key may be longer.
const MAX_KEY: usize = 1024;

impl Trie {
    fn insert(&mut self, key: &str, priority: u32, value: &str) {
        if key.len() <= MAX_KEY && key.bytes().all(|b| b != 0 && b < 0x80) {
            self.entries
                .entry(key.as_bytes().to_vec())
                .or_default()
                .push((priority, value.replace('\0', "").into_bytes()));
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            out.extend(word.to_be_bytes());
        }
        let entries: Vec<Keyed<'_>> = self
            .entries
            .iter()
            .map(|(key, values)| (key.as_slice(), values.as_slice()))
            .collect();
        let root = encode_node(&mut out, &entries, 0);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }
}

/// Writes the node of all `entries` (sorted; alike in their first `depth` bytes) and gives its
/// offset with its flags.
fn encode_node(out: &mut Vec<u8>, entries: &[Keyed<'_>], depth: usize) -> u32 {
    let prefix = common_prefix(entries, depth);
    let at = depth + prefix.len();
    // Sorted, so a key that ends here is the first one.
    let (values, rest) = match entries.split_first() {
        Some(((key, values), rest)) if key.len() == at => (*values, rest),
        _ => (&[][..], entries),
    };
    let mut children = BTreeMap::new();
    let mut start = 0;
    while let Some((key, _)) = rest.get(start) {
        let first = key[at];
        let len = rest[start..]
            .iter()
            .take_while(|(key, _)| key[at] == first)
            .count();
        children.insert(first, encode_node(out, &rest[start..start + len], at + 1));
        start += len;
    }
    let mut offset = out.len() as u32;
    if !prefix.is_empty() {
        offset |= HAS_PREFIX;
        out.extend(prefix);
        out.push(0);
    }
    if let (Some((&first, _)), Some((&last, _))) =
        (children.first_key_value(), children.last_key_value())
    {
        offset |= HAS_CHILDREN;
        out.extend([first, last]);
        for byte in first..=last {
            out.extend(children.get(&byte).copied().unwrap_or(0).to_be_bytes());
        }
    }
    if !values.is_empty() {
        offset |= HAS_VALUES;
        out.extend((values.len() as u32).to_be_bytes());
        for (priority, value) in values {
            out.extend(priority.to_be_bytes());
            out.extend(value);
            out.push(0);
        }
    }
    offset
}

fn common_prefix<'a>(entries: &[Keyed<'a>], depth: usize) -> &'a [u8] {
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
        return &[];
    };
    // Sorted: what the first and the last share, all share.
    let len = first[depth..]
        .iter()
        .zip(&last[depth..])
        .take_while(|(a, b)| a == b)
        .count();
    &first[depth..depth + len]
}

#[cfg(test)]
#[path = "module_index_tests.rs"]
mod tests;
