//! Carries out the plan: directories, inodes, superblock.

use super::directory::{self, DirectoryEntry, FileType};
use super::format::{BLOCK_BYTES, INODE_BYTES, Inode, Layout, SLOT_BYTES, Superblock};
use super::layout::{self, Place, Plan, PlannedDirectory, PlannedFile};
use crate::layers::tree::{Arena, Content, FileData, NodeId, Tree};
use crate::layers::{BaseError, BaseFile, Output};

/// What the file became.
pub(crate) struct Written {
    pub size: u64,
    pub files: u64,
}

/// Appends the metadata to the content that is there, then writes the superblock.
pub(crate) fn write<W: BaseFile>(
    tree: &Tree,
    tails: &Arena,
    output: &mut Output<W>,
    uuid: [u8; 16],
) -> Result<Written, BaseError> {
    output.release_reserved();
    output.align(BLOCK_BYTES)?;
    let plan = Plan::new(tree)?;
    let mut writer = Writer {
        first_block: output.block(),
        tree,
        tails,
        plan,
        scratch: Vec::new(),
    };
    writer.blocks(output)?;
    let metadata_block = output.block();
    writer.inodes(output)?;
    output.align(BLOCK_BYTES)?;
    output.flush()?;
    let size = output.position();
    let superblock = Superblock {
        // The root comes first, one inode behind the start.
        root: (INODE_BYTES / SLOT_BYTES) as u16,
        inodes: writer.plan.files.len() as u64,
        blocks: output.block(),
        metadata_block,
        uuid,
        chunked: writer.plan.chunked,
    };
    output.write_at(&superblock.encode(), 0)?;
    Ok(Written {
        size,
        files: superblock.inodes,
    })
}

struct Writer<'a> {
    /// The block to which the plan's block numbers are relative.
    first_block: u32,
    tree: &'a Tree,
    tails: &'a Arena,
    plan: Plan,
    scratch: Vec<u8>,
}

impl Writer<'_> {
    /// Blocks of directories and long symlinks, in the order in which they were planned.
    fn blocks<W: BaseFile>(&mut self, output: &mut Output<W>) -> Result<(), BaseError> {
        for file in &self.plan.files {
            match file.place {
                Place::Directory(number) => {
                    if let Some(planned) = self.plan.directories.get(number as usize) {
                        debug_assert_eq!(output.block(), self.first_block + planned.block);
                        self.scratch.clear();
                        let inline = self.directory_blocks(planned, output)?;
                        debug_assert_eq!(inline, planned.inline);
                    }
                }
                Place::SymlinkBlock(block) => {
                    debug_assert_eq!(output.block(), self.first_block + block);
                    if let Content::Symlink { target } = self.tree.node(file.node).content {
                        output.append(self.tree.symlink_target(target))?;
                        output.align(BLOCK_BYTES)?;
                    }
                }
                Place::Content | Place::SymlinkInline => {}
            }
        }
        Ok(())
    }

    /// Writes a directory's blocks except an inline one.
    fn directory_blocks<W: BaseFile>(
        &self,
        planned: &PlannedDirectory,
        output: &mut Output<W>,
    ) -> Result<bool, BaseError> {
        let mut packing = directory::Packing::default();
        let mut block = Vec::new();
        let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
        for (name, node) in self.plan.entries(self.tree, planned) {
            if packing.add(name) {
                bytes.clear();
                directory::encode(&block, &mut bytes);
                output.append(&bytes)?;
                output.align(BLOCK_BYTES)?;
                block.clear();
            }
            block.push(self.entry(name, node));
        }
        if !planned.inline {
            bytes.clear();
            directory::encode(&block, &mut bytes);
            output.append(&bytes)?;
            output.align(BLOCK_BYTES)?;
        }
        Ok(planned.inline)
    }

    fn entry<'n>(&self, name: &'n [u8], node: NodeId) -> DirectoryEntry<'n> {
        DirectoryEntry {
            name,
            file: u64::from(self.plan.slot(node)),
            kind: file_type(&self.tree.node(node).content),
        }
    }

    fn inodes<W: BaseFile>(&mut self, output: &mut Output<W>) -> Result<(), BaseError> {
        let start = output.position();
        for (number, file) in (1..).zip(&self.plan.files) {
            let position = start + u64::from(file.slot) * SLOT_BYTES;
            debug_assert!(position >= output.position());
            output.append_zeros(position.saturating_sub(output.position()))?;
            let node = self.tree.node(file.node);
            let xattrs = node.attributes.xattrs.as_deref().unwrap_or_default();
            output.append(&self.inode(number, file).encode())?;
            output.append(xattrs)?;
            self.behind(file, output)?;
        }
        Ok(())
    }

    /// What follows an inode and its attributes.
    fn behind<W: BaseFile>(
        &self,
        file: &PlannedFile,
        output: &mut Output<W>,
    ) -> Result<(), BaseError> {
        match &self.tree.node(file.node).content {
            Content::Directory(_) => {
                if let Some(planned) = self
                    .planned_directory(file)
                    .filter(|planned| planned.inline)
                {
                    let skip = planned.packing.entries_in_full as usize;
                    let entries: Vec<_> = self
                        .plan
                        .entries(self.tree, planned)
                        .skip(skip)
                        .map(|(name, node)| self.entry(name, node))
                        .collect();
                    let mut bytes = Vec::with_capacity(planned.packing.last_bytes);
                    directory::encode(&entries, &mut bytes);
                    output.append(&bytes)?;
                }
            }
            Content::Symlink { target } => {
                if matches!(file.place, Place::SymlinkInline) {
                    output.append(self.tree.symlink_target(*target))?;
                }
            }
            Content::File { size, data } => match data {
                FileData::Flat { .. } => {}
                FileData::Inline { tail, .. } => output.append(self.tails.get(*tail))?,
                FileData::Chunked(chunks) => {
                    for block in layout::map(chunks, *size) {
                        output.append(&block.to_le_bytes())?;
                    }
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn planned_directory(&self, file: &PlannedFile) -> Option<&PlannedDirectory> {
        match file.place {
            Place::Directory(number) => self.plan.directories.get(number as usize),
            _ => None,
        }
    }

    fn inode(&self, number: u32, file: &PlannedFile) -> Inode {
        let node = self.tree.node(file.node);
        let attributes = &node.attributes;
        let (layout, size, links) = match &node.content {
            Content::Directory(directory) => {
                let (block, inline, size) =
                    self.planned_directory(file)
                        .map_or((0, false, 0), |planned| {
                            (
                                self.first_block + planned.block,
                                planned.inline,
                                planned.packing.size(),
                            )
                        });
                let layout = if inline {
                    Layout::Inline { block }
                } else {
                    Layout::Plain { block }
                };
                // Its own name, its `.`, and the `..` of each directory in it.
                (layout, size, directory.subdirectories + 2)
            }
            Content::File { size, data } => {
                let layout = match data {
                    FileData::Flat { block } => Layout::Plain { block: *block },
                    FileData::Inline { block, .. } => Layout::Inline { block: *block },
                    FileData::Chunked(chunks) => Layout::Chunked { bits: chunks.bits },
                };
                (layout, *size, node.names)
            }
            Content::Symlink { target } => {
                let layout = match file.place {
                    Place::SymlinkBlock(block) => Layout::Plain {
                        block: self.first_block + block,
                    },
                    _ => Layout::Inline { block: 0 },
                };
                (layout, target.len() as u64, node.names)
            }
            Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
                let (major, minor) = (*major, *minor);
                (Layout::Device { major, minor }, 0, node.names)
            }
            Content::Fifo | Content::Removed => (Layout::Plain { block: 0 }, 0, node.names),
        };
        Inode {
            layout,
            xattr_bytes: attributes.xattrs.as_ref().map_or(0, |xattrs| xattrs.len()),
            mode: mode_type(&node.content) | attributes.mode,
            size,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            links,
        }
    }
}

/// The type bits of a mode.
fn mode_type(content: &Content) -> u16 {
    match file_type(content) {
        FileType::Regular => 0o100_000,
        FileType::Directory => 0o040_000,
        FileType::CharDevice => 0o020_000,
        FileType::BlockDevice => 0o060_000,
        FileType::Fifo => 0o010_000,
        FileType::Symlink => 0o120_000,
    }
}

fn file_type(content: &Content) -> FileType {
    match content {
        // A removed file has no name that a plan could reach.
        Content::File { .. } | Content::Removed => FileType::Regular,
        Content::Directory(_) => FileType::Directory,
        Content::Symlink { .. } => FileType::Symlink,
        Content::CharDevice { .. } => FileType::CharDevice,
        Content::BlockDevice { .. } => FileType::BlockDevice,
        Content::Fifo => FileType::Fifo,
    }
}
