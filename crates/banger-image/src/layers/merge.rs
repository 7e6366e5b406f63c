//! Applies the entries of one layer to the tree.

use super::attributes::{self, Dropped};
use super::body::{self, Body};
use super::error::{BaseError, EntryError, printable};
use super::output::{BaseFile, Output};
use super::path::{self, Target};
use super::resolve::{Failure, find_directory, find_link_target, make_directory};
use super::tree::{Arena, Attributes, Content, Directory, FileData, NodeId, Tree};
use crate::decompress::Stream;
use crate::erofs::{INODE_BYTES, MAX_SYMLINK};
use crate::limits::Limits;
use crate::tar::{Entry, Kind, ReadError, Reader, Xattr};

/// Largest apparent size of a file.
const MAX_FILE: u64 = 1 << 50;
/// What one run of chunks takes in memory.
const RUN_BYTES: u64 = 12;

/// Everything that layers have in common.
pub(super) struct Merge<W> {
    pub tree: Tree,
    pub tails: Arena,
    pub output: Output<W>,
    pub dropped: Dropped,
    pub entries: u64,
    limits: Limits,
    /// Bytes of attributes and chunk runs; names count themselves.
    metadata_bytes: u64,
    /// The directory that the last entry's parents led to.
    last_parents: Option<(Vec<u8>, NodeId)>,
}

impl<W: BaseFile> Merge<W> {
    pub fn new(output: Output<W>, limits: Limits) -> Self {
        Merge {
            tree: Tree::new(limits.max_entries),
            tails: Arena::default(),
            output,
            dropped: Dropped::new(),
            entries: 0,
            limits,
            metadata_bytes: 0,
            last_parents: None,
        }
    }

    /// Applies one whole archive. Returns the numbers of its entries and bytes.
    pub fn layer<S: Stream>(
        &mut self,
        stream: &mut S,
        end_marker_required: bool,
    ) -> Result<(u64, u64), BaseError> {
        self.tree.begin_layer();
        self.last_parents = None;
        let before = self.entries;
        let mut reader = Reader::new(stream, end_marker_required);
        loop {
            let next = reader.next_entry();
            let Some(mut entry) = next.map_err(|error| read_error(error, reader.offset()))? else {
                break;
            };
            self.entries += 1;
            if self.entries > self.limits.max_entries {
                return Err(BaseError::Limit {
                    what: "entries",
                    max: self.limits.max_entries,
                });
            }
            let entry_path = std::mem::take(&mut entry.path);
            self.entry(&entry_path, entry, &mut reader)
                .map_err(|failure| match failure {
                    Failure::Base(error) => error,
                    Failure::Entry(source) => BaseError::Entry {
                        path: printable(&entry_path),
                        source,
                    },
                })?;
            if self.metadata_bytes + self.tree.name_bytes() > self.limits.max_metadata_bytes {
                return Err(BaseError::Limit {
                    what: "bytes of names and attributes",
                    max: self.limits.max_metadata_bytes,
                });
            }
        }
        reader
            .drain()
            .map_err(|error| read_error(error, reader.offset()))?;
        let bytes = reader.offset();
        self.clear_removed()?;
        Ok((self.entries - before, bytes))
    }

    fn entry<S: Stream>(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut Reader<'_, S>,
    ) -> Result<(), Failure> {
        match path::classify(path)? {
            Target::Ignored => Ok(()),
            Target::Root => self.root(entry),
            Target::Opaque { directory } => {
                if let Some(directory) = find_directory(&self.tree, directory)? {
                    self.last_parents = None;
                    self.tree.purge(directory);
                }
                Ok(())
            }
            Target::Whiteout { parents, name } => self.whiteout(parents, name),
            Target::Named { parents, name } => self.named(parents, name, entry, reader),
        }
    }

    fn root(&mut self, entry: Entry) -> Result<(), Failure> {
        if entry.kind != Kind::Directory {
            return Err(EntryError::RootNotDirectory.into());
        }
        let attributes = self.attributes(&entry, entry.xattrs.clone())?;
        self.tree.node_mut(NodeId::ROOT).attributes = attributes;
        Ok(())
    }

    fn whiteout(&mut self, parents: &[u8], name: &[u8]) -> Result<(), Failure> {
        let found = find_directory(&self.tree, parents)?
            .and_then(|directory| self.tree.lookup(directory, name));
        let Some(dentry) = found else {
            return Ok(());
        };
        self.last_parents = None;
        if self.tree.is_older(dentry) {
            self.tree.unlink(dentry);
        } else {
            // Made or touched by this layer: only what lies below from lower layers goes.
            self.tree.purge(self.tree.target(dentry));
        }
        Ok(())
    }

    fn named<S: Stream>(
        &mut self,
        parents: &[u8],
        name: &[u8],
        mut entry: Entry,
        reader: &mut Reader<'_, S>,
    ) -> Result<(), Failure> {
        let directory = self.parent_directory(parents)?;
        let existing = self.tree.lookup(directory, name);
        let node = if let Kind::HardLink { target } = &entry.kind {
            let node = find_link_target(&self.tree, target)?;
            if let Some(existing) = existing.filter(|existing| self.tree.target(*existing) == node)
            {
                // A link to itself, or made before: only its age changes.
                self.tree.touch(existing);
                return Ok(());
            }
            node
        } else {
            let xattrs = std::mem::take(&mut entry.xattrs);
            let attributes = self.attributes(&entry, xattrs)?;
            if entry.kind == Kind::Directory
                && let Some(existing) = existing
                && self.tree.is_directory(self.tree.target(existing))
            {
                let node = self.tree.target(existing);
                self.tree.node_mut(node).attributes = attributes;
                self.tree.touch(existing);
                return Ok(());
            }
            let content = self.content(entry.kind, &attributes, reader)?;
            self.tree.add_node(attributes, content)?
        };
        // The new file first, then the old name goes: a link's target may be below that name.
        self.tree.node_mut(node).names += 1;
        if let Some(existing) = existing {
            let replaced = &self.tree.node(self.tree.target(existing)).content;
            if matches!(replaced, Content::Directory(_) | Content::Symlink { .. }) {
                self.last_parents = None;
            }
            self.tree.unlink(existing);
        }
        self.tree.node_mut(node).names -= 1;
        self.tree.link(directory, name, node)?;
        Ok(())
    }

    /// Archives list a directory's files together, so the last answer is often this one too.
    fn parent_directory(&mut self, parents: &[u8]) -> Result<NodeId, Failure> {
        if let Some((path, directory)) = &self.last_parents
            && path == parents
        {
            return Ok(*directory);
        }
        let directory = make_directory(&mut self.tree, parents)?;
        let mut path = self
            .last_parents
            .take()
            .map_or(Vec::new(), |(path, _)| path);
        path.clear();
        path.extend_from_slice(parents);
        self.last_parents = Some((path, directory));
        Ok(directory)
    }

    fn attributes(&mut self, entry: &Entry, xattrs: Vec<Xattr>) -> Result<Attributes, Failure> {
        let xattrs = attributes::encode(xattrs, &mut self.dropped)?;
        let xattr_bytes = xattrs.as_ref().map_or(0, |xattrs| xattrs.len() as u64);
        self.metadata_bytes += xattr_bytes;
        self.output.reserve(INODE_BYTES + xattr_bytes)?;
        Ok(Attributes {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs,
        })
    }

    fn content<S: Stream>(
        &mut self,
        kind: Kind,
        attributes: &Attributes,
        reader: &mut Reader<'_, S>,
    ) -> Result<Content, Failure> {
        Ok(match kind {
            Kind::Directory | Kind::HardLink { .. } => Content::Directory(Directory::default()),
            Kind::File { size } => self.file(size, attributes, reader)?,
            Kind::Symlink { target } => {
                if target.is_empty() || target.len() > MAX_SYMLINK {
                    return Err(EntryError::SymlinkTarget.into());
                }
                if target.contains(&0) {
                    return Err(EntryError::Nul.into());
                }
                self.output.reserve(target.len() as u64)?;
                let target = self.tree.keep_target(&target)?;
                Content::Symlink { target }
            }
            Kind::CharDevice { major: 0, minor: 0 } => {
                return Err(EntryError::WhiteoutDevice.into());
            }
            Kind::CharDevice { major, minor } => Content::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => Content::BlockDevice { major, minor },
            Kind::Fifo => Content::Fifo,
        })
    }

    fn file<S: Stream>(
        &mut self,
        size: u64,
        attributes: &Attributes,
        reader: &mut Reader<'_, S>,
    ) -> Result<Content, Failure> {
        if size > MAX_FILE {
            return Err(EntryError::FileTooLong {
                size,
                max: MAX_FILE,
            }
            .into());
        }
        let xattr_bytes = attributes.xattrs.as_ref().map_or(0, |xattrs| xattrs.len());
        let mut body = Body::new(size, xattr_bytes, &self.tails);
        loop {
            match reader.piece() {
                Ok(Some(piece)) => body.piece(piece, &mut self.output)?,
                Ok(None) => break,
                Err(error) => return Err(read_error(error, reader.offset()).into()),
            }
        }
        let data = body.finish(&mut self.output, &mut self.tails)?;
        match &data {
            FileData::Flat { .. } => {}
            FileData::Inline { tail, .. } => self.output.reserve(tail.len() as u64)?,
            FileData::Chunked(chunks) => {
                self.metadata_bytes += chunks.runs.len() as u64 * RUN_BYTES;
                self.output.reserve(body::map_bytes(size))?;
            }
        }
        Ok(Content::File { size, data })
    }

    /// Gives back the blocks of files that this layer hid.
    fn clear_removed(&mut self) -> Result<(), BaseError> {
        let mut blocks = Vec::new();
        for (size, data) in self.tree.take_removed() {
            body::blocks(size, &data, &mut blocks);
        }
        self.output.clear_blocks(&mut blocks)
    }
}

fn read_error(error: ReadError, offset: u64) -> BaseError {
    match error {
        ReadError::Stream(error) => BaseError::Stream(error),
        ReadError::Tar(source) => BaseError::Tar { offset, source },
    }
}
