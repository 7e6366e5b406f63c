//! Decides where everything of the metadata goes. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use super::directory::Packing;
use super::format::{BLOCK_BYTES, HOLE, INODE_BYTES, SLOT_BYTES, fits_behind_inode};
use crate::layers::BaseError;
use crate::layers::tree::{Chunks, Content, DentryId, FileData, NodeId, Tree};

const SELF: &[u8] = b".";
const PARENT: &[u8] = b"..";

/// The inode number of a file: its position in units of 32 bytes.
pub(super) type Slot = u32;

/// The plan: files in the order in which their inodes are written, and their places.
pub(super) struct Plan {
    pub files: Vec<PlannedFile>,
    pub directories: Vec<PlannedDirectory>,
    /// Children of all directories, one directory's behind the other's, sorted by name.
    pub children: Vec<DentryId>,
    /// By node; zero where a node has no place, as slot zero is never used.
    slots: Vec<Slot>,
    /// Blocks needed in front of the inodes: directories, and symlinks that are too long.
    pub blocks: u32,
    pub chunked: bool,
}

pub(super) struct PlannedFile {
    pub node: NodeId,
    pub slot: Slot,
    /// Where the content lies that is written with the metadata.
    pub place: Place,
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Written before, or none.
    Content,
    /// A symlink's target, in a block of its own.
    SymlinkBlock(u32),
    SymlinkInline,
    /// The directory of this number.
    Directory(u32),
}

pub(super) struct PlannedDirectory {
    pub node: NodeId,
    /// First of its own in [`Plan::children`].
    pub first_child: u32,
    pub child_count: u32,
    /// First block, relative to the directories' first.
    pub block: u32,
    pub packing: Packing,
    /// Whether the last block lies behind the inode.
    pub inline: bool,
}

impl Plan {
    pub fn new(tree: &Tree) -> Result<Plan, BaseError> {
        let mut plan = Plan {
            files: Vec::new(),
            directories: Vec::new(),
            children: Vec::new(),
            slots: vec![0; tree.node_count()],
            blocks: 0,
            chunked: false,
        };
        // The superblock names the root in 16 bits, so it comes first; number zero is no inode.
        let mut position = INODE_BYTES;
        let mut queue = VecDeque::new();
        queue.extend(plan.file(tree, NodeId::ROOT, &mut position)?);
        while let Some(directory) = queue.pop_front() {
            for index in directory {
                let Some(child) = plan.children.get(index) else {
                    continue;
                };
                let node = tree.target(*child);
                // A file with several names has its place already.
                if plan.slot(node) == 0 {
                    queue.extend(plan.file(tree, node, &mut position)?);
                }
            }
        }
        Ok(plan)
    }

    pub fn slot(&self, node: NodeId) -> Slot {
        self.slots.get(node.index()).copied().unwrap_or_default()
    }

    /// `.`, `..` and the children of a directory, as its blocks have them.
    pub fn entries<'a>(
        &'a self,
        tree: &'a Tree,
        directory: &PlannedDirectory,
    ) -> impl Iterator<Item = (&'a [u8], NodeId)> {
        let first = directory.first_child as usize;
        let children = self
            .children
            .get(first..first + directory.child_count as usize)
            .unwrap_or_default();
        let names = children
            .iter()
            .map(|child| (tree.name(*child), tree.target(*child)));
        with_dots(names, directory.node, tree.parent(directory.node))
    }

    /// Gives a file its place, the next that fits. Returns where a directory's children are.
    fn file(
        &mut self,
        tree: &Tree,
        node: NodeId,
        position: &mut u64,
    ) -> Result<Option<Range<usize>>, BaseError> {
        let first_child = self.children.len();
        let file = tree.node(node);
        let xattr_bytes = file
            .attributes
            .xattrs
            .as_ref()
            .map_or(0, |xattrs| xattrs.len());
        let (place, behind, in_one_block) = match &file.content {
            Content::Directory(_) => {
                let (number, behind) = self.directory(tree, node, xattr_bytes)?;
                (Place::Directory(number), behind, true)
            }
            Content::Symlink { target } if fits_behind_inode(xattr_bytes, target.len()) => {
                (Place::SymlinkInline, target.len() as u64, true)
            }
            Content::Symlink { .. } => {
                let block = self.take_blocks(1)?;
                (Place::SymlinkBlock(block), 0, true)
            }
            Content::File { data, size } => match data {
                FileData::Flat { .. } => (Place::Content, 0, true),
                FileData::Inline { tail, .. } => (Place::Content, tail.len() as u64, true),
                FileData::Chunked(chunks) => {
                    self.chunked = true;
                    (Place::Content, map_entries(chunks, *size) * 4, false)
                }
            },
            _ => (Place::Content, 0, true),
        };
        let bytes = INODE_BYTES + xattr_bytes as u64;
        let mut start = position.next_multiple_of(SLOT_BYTES);
        // A tail lies in the block where its inode begins: Linux reads both at once.
        let together = if in_one_block && behind > 0 {
            bytes + behind
        } else {
            INODE_BYTES
        };
        if start % BLOCK_BYTES + together > BLOCK_BYTES {
            start = start.next_multiple_of(BLOCK_BYTES);
        }
        *position = start + bytes + behind;
        let slot = Slot::try_from(start / SLOT_BYTES).map_err(|_| BaseError::Limit {
            what: "bytes of metadata",
            max: u64::from(Slot::MAX) * SLOT_BYTES,
        })?;
        if let Some(own) = self.slots.get_mut(node.index()) {
            *own = slot;
        }
        self.files.push(PlannedFile { node, slot, place });
        let is_directory = matches!(place, Place::Directory(_));
        Ok(is_directory.then_some(first_child..self.children.len()))
    }

    /// Sorts a directory and packs its entries. Returns its number and its inline bytes.
    fn directory(
        &mut self,
        tree: &Tree,
        node: NodeId,
        xattr_bytes: usize,
    ) -> Result<(u32, u64), BaseError> {
        let first = self.children.len();
        self.children.extend(tree.children(node));
        let children = self.children.get_mut(first..).unwrap_or_default();
        children.sort_unstable_by(|a, b| tree.name(*a).cmp(tree.name(*b)));
        let mut packing = Packing::default();
        let names = children.iter().map(|child| (tree.name(*child), node));
        for (name, _) in with_dots(names, node, node) {
            packing.add(name);
        }
        let child_count = children.len() as u32;
        let inline = fits_behind_inode(xattr_bytes, packing.last_bytes);
        let block = self.take_blocks(packing.full_blocks + u32::from(!inline))?;
        let number = self.directories.len() as u32;
        self.directories.push(PlannedDirectory {
            node,
            // Names are bounded to 32 bits.
            first_child: first as u32,
            child_count,
            block,
            packing,
            inline,
        });
        Ok((number, if inline { packing.last_bytes as u64 } else { 0 }))
    }

    fn take_blocks(&mut self, count: u32) -> Result<u32, BaseError> {
        let block = self.blocks;
        self.blocks = block.checked_add(count).ok_or(BaseError::Limit {
            what: "blocks of directories",
            max: u64::from(u32::MAX),
        })?;
        Ok(block)
    }
}

/// Adds `.` and `..` where they belong: names such as `!` and `-` come before them.
fn with_dots<'a>(
    names: impl Iterator<Item = (&'a [u8], NodeId)>,
    own: NodeId,
    parent: NodeId,
) -> impl Iterator<Item = (&'a [u8], NodeId)> {
    let mut dots = [(SELF, own), (PARENT, parent)].into_iter().peekable();
    let mut names = names.peekable();
    std::iter::from_fn(move || match (dots.peek(), names.peek()) {
        (Some(dot), Some(name)) if name.0 < dot.0 => names.next(),
        (Some(_), _) => dots.next(),
        (None, _) => names.next(),
    })
}

/// Number of chunks in a file's map.
fn map_entries(chunks: &Chunks, size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES << chunks.bits)
}

/// The map of a file with holes: one block number for each chunk.
pub(super) fn map(chunks: &Chunks, size: u64) -> impl Iterator<Item = u32> {
    let mut runs = chunks.runs.iter().peekable();
    let bits = chunks.bits;
    (0..map_entries(chunks, size)).map(move |number| {
        let past = |first: u32, count: u32| u64::from(first) + u64::from(count) <= number;
        while runs.next_if(|run| past(run.first, run.count)).is_some() {}
        match runs.peek() {
            Some(run) if u64::from(run.first) <= number => {
                // Within the run, hence within the 32 bits of block numbers.
                run.block + (((number - u64::from(run.first)) << bits) as u32)
            }
            _ => HOLE,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::tree::Run;

    #[test]
    fn a_map_has_holes_around_runs() {
        let run = |first, count, block| Run {
            first,
            count,
            block,
        };
        let chunks = Chunks {
            bits: 4,
            runs: vec![run(1, 2, 100), run(4, 1, 132)],
        };
        let map: Vec<_> = map(&chunks, 5 * 65536 + 1).collect();
        assert_eq!(map, [HOLE, 100, 116, HOLE, 132, HOLE]);
    }

    #[test]
    fn dots_are_sorted_among_the_names() {
        let sorted = |names: &[&'static str]| {
            let names = names.iter().map(|name| (name.as_bytes(), NodeId::ROOT));
            with_dots(names, NodeId::ROOT, NodeId::ROOT)
                .map(|(name, _)| String::from_utf8(name.to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(sorted(&[]), [".", ".."]);
        assert_eq!(
            sorted(&["!", "-", ".-", "..a", "a"]),
            ["!", "-", ".", ".-", "..", "..a", "a"]
        );
    }
}
