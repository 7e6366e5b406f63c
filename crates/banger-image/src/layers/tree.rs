//! The merged tree: names, and the files they lead to.
//!
//! Names ([`Dentry`]) and files ([`Node`]) are apart, because a hard link is one file under
//! several names and a layer's age belongs to the *name*. Both are indices into tables that only
//! grow; a removed one stays as a tombstone, so memory is bounded by what was ever made. Siblings
//! are a list through their dentries; finding a name is one lookup in a table over all names.
//!
//! Nothing here recurses: a tree may be as deep as it has entries.

mod arena;

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

pub(crate) use arena::{Arena, Span};

use super::error::BaseError;
use crate::tar::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DentryId(u32);

impl NodeId {
    pub const ROOT: NodeId = NodeId(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// As EROFS stores them behind an inode; most files have none.
    pub xattrs: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    File {
        size: u64,
        data: FileData,
    },
    Symlink {
        target: Span,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// No name leads here any more.
    Removed,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Its own name; the root has none.
    dentry: Option<DentryId>,
    first_child: Option<DentryId>,
    pub subdirectories: u32,
    /// The last layer in which everything older was removed from it.
    purged_in: u32,
}

/// Where a regular file's content is, in blocks of the base.
#[derive(Debug)]
pub(crate) enum FileData {
    Flat {
        block: u32,
    },
    /// Full blocks, and a tail that will lie behind the inode.
    Inline {
        block: u32,
        tail: Span,
    },
    Chunked(Box<Chunks>),
}

/// Content with holes: chunks of `1 << bits` blocks, those in no run being holes.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pub bits: u8,
    pub runs: Vec<Run>,
}

/// `count` chunks from `first`, stored one behind the other from `block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub first: u32,
    pub count: u32,
    pub block: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub attributes: Attributes,
    pub content: Content,
    /// Names that lead here; for the root, which has none, zero.
    pub names: u32,
}

#[derive(Debug)]
struct Dentry {
    parent: NodeId,
    node: NodeId,
    name: Span,
    previous: Option<DentryId>,
    next: Option<DentryId>,
    /// The last layer that made this name or something below it.
    layer: u32,
}

pub(crate) struct Tree {
    nodes: Vec<Node>,
    dentries: Vec<Dentry>,
    names: Arena,
    table: HashTable<DentryId>,
    hasher: RandomState,
    layer: u32,
    max_nodes: u64,
    /// Files that lost their last name since [`Tree::take_removed`], with what they held.
    removed: Vec<(u64, FileData)>,
}

impl Tree {
    pub fn new(max_nodes: u64) -> Tree {
        let root = Node {
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
            content: Content::Directory(Directory::default()),
            names: 0,
        };
        Tree {
            nodes: vec![root],
            dentries: Vec::new(),
            names: Arena::default(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            layer: 0,
            max_nodes: max_nodes.min(u64::from(u32::MAX - 1)),
            removed: Vec::new(),
        }
    }

    /// From here on, what exists is older than what comes.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    pub fn node(&self, id: NodeId) -> &Node {
        // An id is only made for a node that exists, and nodes never go.
        &self.nodes[id.index()]
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    fn dentry(&self, id: DentryId) -> &Dentry {
        &self.dentries[id.0 as usize]
    }

    fn dentry_mut(&mut self, id: DentryId) -> &mut Dentry {
        &mut self.dentries[id.0 as usize]
    }

    pub fn target(&self, id: DentryId) -> NodeId {
        self.dentry(id).node
    }

    pub fn name(&self, id: DentryId) -> &[u8] {
        self.names.get(self.dentry(id).name)
    }

    pub fn symlink_target(&self, target: Span) -> &[u8] {
        self.names.get(target)
    }

    /// Number of files ever made.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The directory that holds `id`; the root's is itself.
    pub fn parent(&self, id: NodeId) -> NodeId {
        match &self.node(id).content {
            Content::Directory(Directory {
                dentry: Some(dentry),
                ..
            }) => self.dentry(*dentry).parent,
            _ => NodeId::ROOT,
        }
    }

    pub fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.node(id).content, Content::Directory(_))
    }

    /// Whether `id` was last touched by a layer below the current one.
    pub fn is_older(&self, id: DentryId) -> bool {
        self.dentry(id).layer < self.layer
    }

    pub fn children(&self, directory: NodeId) -> impl Iterator<Item = DentryId> {
        let first = match &self.node(directory).content {
            Content::Directory(directory) => directory.first_child,
            _ => None,
        };
        std::iter::successors(first, |id| self.dentry(*id).next)
    }

    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<DentryId> {
        let hash = self.hash(directory, name);
        self.table
            .find(hash, |id| {
                let dentry = self.dentry(*id);
                dentry.parent == directory && self.names.get(dentry.name) == name
            })
            .copied()
    }

    /// Adds a file that no name leads to yet.
    pub fn add_node(
        &mut self,
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId, BaseError> {
        if self.nodes.len() as u64 >= self.max_nodes {
            return Err(BaseError::Limit {
                what: "files",
                max: self.max_nodes,
            });
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            attributes,
            content,
            names: 0,
        });
        Ok(id)
    }

    /// Keeps a symlink's target.
    pub fn keep_target(&mut self, target: &[u8]) -> Result<Span, BaseError> {
        self.names.add(target)
    }

    /// Gives `node` the name `name` in `directory`, where that name is free.
    pub fn link(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: NodeId,
    ) -> Result<DentryId, BaseError> {
        // Names are as bounded as nodes: each entry makes at most one beside those of its parents.
        if self.dentries.len() as u64 >= self.max_nodes {
            return Err(BaseError::Limit {
                what: "names",
                max: self.max_nodes,
            });
        }
        let hash = self.hash(directory, name);
        let id = DentryId(self.dentries.len() as u32);
        let next = match &mut self.node_mut(directory).content {
            Content::Directory(parent) => parent.first_child.replace(id),
            _ => None,
        };
        let name = self.names.add(name)?;
        self.dentries.push(Dentry {
            parent: directory,
            node,
            name,
            previous: None,
            next,
            layer: 0,
        });
        if let Some(next) = next {
            self.dentry_mut(next).previous = Some(id);
        }
        let target = self.node_mut(node);
        target.names += 1;
        if let Content::Directory(child) = &mut target.content {
            child.dentry = Some(id);
            if let Content::Directory(parent) = &mut self.node_mut(directory).content {
                parent.subdirectories += 1;
            }
        }
        let Tree {
            table,
            dentries,
            names,
            hasher,
            ..
        } = self;
        table.insert_unique(hash, id, |id| {
            let dentry = &dentries[id.0 as usize];
            hash_name(hasher, dentry.parent, names.get(dentry.name))
        });
        self.touch(id);
        Ok(id)
    }

    /// Marks a name and all above it as made by the current layer.
    pub fn touch(&mut self, id: DentryId) {
        let mut next = Some(id);
        while let Some(id) = next {
            // Whatever is marked has all above it marked.
            if self.dentry(id).layer == self.layer {
                return;
            }
            self.dentry_mut(id).layer = self.layer;
            next = match &self.node(self.dentry(id).parent).content {
                Content::Directory(parent) => parent.dentry,
                _ => None,
            };
        }
    }

    /// Removes a name, and with a directory everything below it.
    pub fn unlink(&mut self, id: DentryId) {
        let Dentry {
            parent,
            node,
            previous,
            next,
            ..
        } = *self.dentry(id);
        if let Some(next) = next {
            self.dentry_mut(next).previous = previous;
        }
        match previous {
            Some(previous) => self.dentry_mut(previous).next = next,
            None => {
                if let Content::Directory(parent) = &mut self.node_mut(parent).content {
                    parent.first_child = next;
                }
            }
        }
        if self.is_directory(node)
            && let Content::Directory(parent) = &mut self.node_mut(parent).content
        {
            parent.subdirectories -= 1;
        }
        let mut names = vec![id];
        while let Some(id) = names.pop() {
            self.forget(id);
            let target = self.dentry(id).node;
            names.extend(self.children(target));
            let node = self.node_mut(target);
            node.names -= 1;
            if node.names == 0 {
                node.attributes.xattrs = None;
                if let Content::File { size, data } =
                    std::mem::replace(&mut node.content, Content::Removed)
                {
                    self.removed.push((size, data));
                }
            }
        }
    }

    /// Removes from below a directory every name that lower layers made.
    pub fn purge(&mut self, directory: NodeId) {
        let layer = self.layer;
        let mut directories = vec![directory];
        while let Some(id) = directories.pop() {
            let Content::Directory(directory) = &mut self.node_mut(id).content else {
                continue;
            };
            // Nothing older can have come into it since: names do not move.
            if std::mem::replace(&mut directory.purged_in, layer) == layer {
                continue;
            }
            let mut next = directory.first_child;
            while let Some(child) = next {
                next = self.dentry(child).next;
                if self.is_older(child) {
                    self.unlink(child);
                } else {
                    directories.push(self.target(child));
                }
            }
        }
    }

    /// The content of files that were removed since the last call.
    pub fn take_removed(&mut self) -> Vec<(u64, FileData)> {
        std::mem::take(&mut self.removed)
    }

    /// Bytes of all names and symlink targets, removed ones too.
    pub fn name_bytes(&self) -> u64 {
        self.names.bytes()
    }

    fn forget(&mut self, id: DentryId) {
        let dentry = self.dentry(id);
        let hash = self.hash(dentry.parent, self.names.get(dentry.name));
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
    }

    fn hash(&self, directory: NodeId, name: &[u8]) -> u64 {
        hash_name(&self.hasher, directory, name)
    }
}

/// Keyed at random, because names come from strangers.
fn hash_name(hasher: &RandomState, directory: NodeId, name: &[u8]) -> u64 {
    hasher.hash_one((directory.0, name))
}
