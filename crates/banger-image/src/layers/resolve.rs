//! Finds the directory a path leads to, inside the tree and nowhere else.

use std::borrow::Cow;

use super::error::{BaseError, EntryError, printable};
use super::path::{MAX_PATH, check_new_directory, components, split};
use super::tree::{Attributes, Content, Directory, NodeId, Tree};

/// As many as Linux follows in one path.
const MAX_SYMLINKS: usize = 40;
/// Components walked for one path, those of symlinks included: bounds the work one entry can ask
/// for.
const MAX_STEPS: usize = 4 * MAX_PATH;

/// Why a directory was not found.
pub(super) enum Failure {
    Entry(EntryError),
    Base(BaseError),
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Self {
        Failure::Entry(error)
    }
}

impl From<BaseError> for Failure {
    fn from(error: BaseError) -> Self {
        Failure::Base(error)
    }
}

/// The directory at `path`, if there is one.
pub(super) fn find_directory(tree: &Tree, path: &[u8]) -> Result<Option<NodeId>, EntryError> {
    let mut walk = Walk::new(path);
    while let Some(name) = walk.next()? {
        match walk.step(tree, &name) {
            Found::Directory(node) => walk.at = node,
            Found::Symlink(target) => walk.follow(&target)?,
            Found::Nothing | Found::Other(_) => return Ok(None),
        }
    }
    Ok(Some(walk.at))
}

/// The directory at `path`; what is missing is made.
pub(super) fn make_directory(tree: &mut Tree, path: &[u8]) -> Result<NodeId, Failure> {
    let mut walk = Walk::new(path);
    while let Some(name) = walk.next()? {
        match walk.step(tree, &name) {
            Found::Directory(node) => walk.at = node,
            Found::Symlink(target) => walk.follow(&target)?,
            Found::Nothing => walk.at = add_implicit(tree, walk.at, &name)?,
            // A file of a lower layer gives way, as it would below an overlay's directory.
            Found::Other(dentry) if tree.is_older(dentry) => {
                tree.unlink(dentry);
                walk.at = add_implicit(tree, walk.at, &name)?;
            }
            Found::Other(_) => {
                let name = printable(&name);
                return Err(EntryError::ParentNotDirectory { name }.into());
            }
        }
    }
    Ok(walk.at)
}

/// The file a hard link names: its parents are followed, it itself is not.
pub(super) fn find_link_target(tree: &Tree, path: &[u8]) -> Result<NodeId, EntryError> {
    let wrapped = |error| EntryError::LinkTarget(Box::new(error));
    let (parents, name) = split(path).map_err(wrapped)?;
    let target = || printable(path);
    if name.is_empty() {
        return Err(EntryError::LinkToDirectory { target: target() });
    }
    let node = find_directory(tree, parents)
        .map_err(wrapped)?
        .and_then(|directory| tree.lookup(directory, name))
        .map(|dentry| tree.target(dentry))
        .ok_or_else(|| EntryError::LinkToNothing { target: target() })?;
    if tree.is_directory(node) {
        return Err(EntryError::LinkToDirectory { target: target() });
    }
    Ok(node)
}

fn add_implicit(tree: &mut Tree, parent: NodeId, name: &[u8]) -> Result<NodeId, Failure> {
    check_new_directory(name)?;
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let node = tree.add_node(attributes, Content::Directory(Directory::default()))?;
    tree.link(parent, name, node)?;
    Ok(node)
}

enum Found {
    Directory(NodeId),
    Symlink(Vec<u8>),
    Other(super::tree::DentryId),
    Nothing,
}

/// A path being walked: where it is, and what is left of it.
struct Walk<'a> {
    at: NodeId,
    rest: Cow<'a, [u8]>,
    position: usize,
    symlinks: usize,
    steps: usize,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8]) -> Self {
        Walk {
            at: NodeId::ROOT,
            rest: Cow::Borrowed(path),
            position: 0,
            symlinks: 0,
            steps: 0,
        }
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, EntryError> {
        let left = self.rest.get(self.position..).unwrap_or_default();
        let Some(name) = components(left).next() else {
            return Ok(None);
        };
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(EntryError::SymlinkLoop);
        }
        // `name` lies within `left`, so the distance of their starts is where it begins.
        let begin = name.as_ptr().addr() - left.as_ptr().addr();
        self.position += begin + name.len();
        Ok(Some(name.to_vec()))
    }

    fn step(&self, tree: &Tree, name: &[u8]) -> Found {
        // Only a symlink's target can have it; the root is its own parent.
        if name == b".." {
            return Found::Directory(tree.parent(self.at));
        }
        let Some(dentry) = tree.lookup(self.at, name) else {
            return Found::Nothing;
        };
        let node = tree.target(dentry);
        match &tree.node(node).content {
            Content::Directory(_) => Found::Directory(node),
            Content::Symlink { target } => Found::Symlink(tree.symlink_target(*target).to_vec()),
            _ => Found::Other(dentry),
        }
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), EntryError> {
        self.symlinks += 1;
        if self.symlinks > MAX_SYMLINKS {
            return Err(EntryError::SymlinkLoop);
        }
        if target.starts_with(b"/") {
            self.at = NodeId::ROOT;
        }
        let left = self.rest.get(self.position..).unwrap_or_default();
        self.rest = Cow::Owned([target, b"/", left].concat());
        self.position = 0;
        Ok(())
    }
}
