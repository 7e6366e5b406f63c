//! Whatever the layers: the tree is the model's, and no bytes make the writer panic.

use std::collections::BTreeMap;

use banger_image::limits::Limits;
use proptest::prelude::*;

use crate::archive::{Member, archive, seal};
use crate::image::Image;
use crate::script::render;
use crate::{base, limited_base};

#[derive(Clone, Debug)]
enum Op {
    File(String, u8),
    Directory(String),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

/// The slow and obvious merge: paths to files, each name with the layer that last touched it.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, (usize, u32)>,
    files: Vec<Option<u8>>,
    layer: u32,
}

const DIRECTORY: usize = usize::MAX;

impl Model {
    fn below(path: &str, other: &str) -> bool {
        path.is_empty()
            || other
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    fn remove(&mut self, path: &str) {
        self.names
            .retain(|name, _| name != path && !Self::below(path, name));
    }

    fn purge(&mut self, path: &str) {
        let layer = self.layer;
        self.names
            .retain(|name, (_, age)| !Self::below(path, name) || *age == layer);
    }

    fn parent(path: &str) -> &str {
        path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// Makes the parents; false where one is a file of this layer.
    fn parents(&mut self, path: &str) -> bool {
        let parent = Self::parent(path).to_owned();
        if parent.is_empty() {
            return true;
        }
        if !self.parents(&parent) {
            return false;
        }
        match self.names.get(&parent) {
            Some((DIRECTORY, _)) => true,
            Some((_, age)) if *age == self.layer => false,
            _ => {
                self.names.insert(parent, (DIRECTORY, self.layer));
                true
            }
        }
    }

    fn put(&mut self, path: &str, file: usize) {
        self.names.insert(path.to_owned(), (file, self.layer));
        let mut parent = Self::parent(path);
        while !parent.is_empty() {
            if let Some((_, age)) = self.names.get_mut(parent) {
                *age = self.layer;
            }
            parent = Self::parent(parent);
        }
    }

    /// False where the entry must be refused.
    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::File(path, content) => {
                if !self.parents(path) {
                    return false;
                }
                self.remove(path);
                self.files.push(Some(*content));
                self.put(path, self.files.len() - 1);
            }
            Op::Directory(path) => {
                if !self.parents(path) {
                    return false;
                }
                if !matches!(self.names.get(path), Some((DIRECTORY, _))) {
                    self.remove(path);
                }
                self.put(path, DIRECTORY);
            }
            Op::Link(path, target) => {
                if !self.parents(path) {
                    return false;
                }
                let file = match self.names.get(target) {
                    None | Some((DIRECTORY, _)) => return false,
                    Some((file, _)) => *file,
                };
                if !matches!(self.names.get(path), Some((same, _)) if *same == file) {
                    self.remove(path);
                }
                self.put(path, file);
            }
            Op::Whiteout(path) => match self.names.get(path) {
                Some((_, age)) if *age < self.layer => self.remove(path),
                Some(_) => self.purge(path),
                None => {}
            },
            Op::Opaque(path) => {
                if path.is_empty() || matches!(self.names.get(path), Some((DIRECTORY, _))) {
                    self.purge(path);
                }
            }
        }
        true
    }

    fn render(&self) -> String {
        let lines: Vec<_> = self
            .names
            .iter()
            .map(|(path, (file, _))| {
                if *file == DIRECTORY {
                    return format!("d {path}");
                }
                let content = self.files[*file].map(char::from).unwrap_or_default();
                match self
                    .names
                    .values()
                    .filter(|(other, _)| other == file)
                    .count()
                {
                    1 => format!("f {path}={content}"),
                    links => format!("f {path}={content}#{links}"),
                }
            })
            .collect();
        lines.join("; ")
    }
}

fn member(op: &Op) -> Member {
    let marked = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    };
    match op {
        Op::File(path, content) => Member::file(path, [*content]),
        Op::Directory(path) => Member::directory(path),
        Op::Link(path, target) => Member::hard_link(path, target),
        Op::Whiteout(path) => Member::file(marked(path), ""),
        Op::Opaque(path) => Member::file(format!("{path}/.wh..wh..opq"), ""),
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), b'0'..=b'9').prop_map(|(path, content)| Op::File(path, content)),
        2 => path().prop_map(Op::Directory),
        2 => (path(), path()).prop_map(|(path, target)| Op::Link(path, target)),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
        1 => Just(Op::Opaque(String::new())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_become_what_the_model_says(layers in prop::collection::vec(prop::collection::vec(op(), 0..12), 1..4)) {
        let mut model = Model::default();
        let mut archives = Vec::new();
        for ops in &layers {
            model.layer += 1;
            let mut members = Vec::new();
            for op in ops {
                // What must be refused is refused, and left out of what follows.
                let parents = model.names.clone();
                if model.apply(op) {
                    members.push(member(op));
                } else {
                    model.names = parents;
                    let mut refused: Vec<Vec<u8>> = archives.clone();
                    let mut with = members.clone();
                    with.push(member(op));
                    refused.push(archive(&with));
                    prop_assert!(base(&refused).is_err(), "{op:?} is taken");
                }
            }
            archives.push(archive(&members));
        }
        let (file, _) = base(&archives).expect("good layers");
        prop_assert_eq!(render(&Image::open(&file).files()), model.render());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = base(&[bytes]);
    }

    /// Archives that are nearly right get further than noise does.
    #[test]
    fn damaged_archives_are_refused_or_make_a_sound_base(
        changes in prop::collection::vec((0..12_usize, 0..512_usize, any::<u8>()), 1..6),
        cut in prop::option::of(0..6000_usize),
    ) {
        let mut bytes = archive(&[
            Member::directory("d"),
            Member::file("d/f", vec![1; 700]).xattr("user.a", "b"),
            Member::hard_link("h", "d/f"),
            Member::symlink("s", "d"),
            Member::file("s/sparse", "data").record("GNU.sparse.map", "100,4").record("GNU.sparse.size", "70000"),
        ]);
        for (block, at, value) in changes {
            let start = block * 512;
            if let Some(block) = bytes.get_mut(start..start + 512) {
                let is_header = block[257..262] == *b"ustar";
                block[at] = value;
                if is_header {
                    seal(block);
                }
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        let limits = Limits {
            max_base_bytes: 64 << 20,
            ..Limits::default()
        };
        if let Ok((file, _)) = limited_base(&[bytes], limits) {
            Image::open(&file).files();
        }
    }
}
