//! Directory blocks: entries, then their names. Pure.

use super::format::BLOCK_BYTES;

const ENTRY_BYTES: usize = 12;
const BLOCK: usize = BLOCK_BYTES as usize;

/// What a directory entry says of the file it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

pub(super) struct DirectoryEntry<'a> {
    pub name: &'a [u8],
    pub file: u64,
    pub kind: FileType,
}

/// How a directory's entries fall into blocks. They are added in the order of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packing {
    /// Blocks that are full.
    pub full_blocks: u32,
    /// Entries in them.
    pub entries_in_full: u32,
    /// Bytes of the last block.
    pub last_bytes: usize,
    entries: u32,
}

impl Packing {
    /// True if the entry opens a new block.
    pub fn add(&mut self, name: &[u8]) -> bool {
        let bytes = ENTRY_BYTES + name.len();
        let opens = self.last_bytes + bytes > BLOCK;
        if opens {
            self.full_blocks += 1;
            self.entries_in_full = self.entries;
            self.last_bytes = 0;
        }
        self.last_bytes += bytes;
        self.entries += 1;
        opens
    }

    pub fn size(&self) -> u64 {
        u64::from(self.full_blocks) * BLOCK_BYTES + self.last_bytes as u64
    }
}

/// Appends one block's entries, without padding.
pub(super) fn encode(entries: &[DirectoryEntry<'_>], bytes: &mut Vec<u8>) {
    let mut name_offset = entries.len() * ENTRY_BYTES;
    for entry in entries {
        bytes.extend(entry.file.to_le_bytes());
        // Within a block: 12 bits.
        bytes.extend((name_offset as u16).to_le_bytes());
        bytes.extend([entry.kind as u8, 0]);
        name_offset += entry.name.len();
    }
    for entry in entries {
        bytes.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_agrees_with_encoding() {
        let names: Vec<Vec<u8>> = (0..3000_usize)
            .map(|n| format!("{n:04}{}", "x".repeat(n % 250)).into_bytes())
            .collect();
        let mut packing = Packing::default();
        let mut blocks: Vec<Vec<DirectoryEntry<'_>>> = vec![Vec::new()];
        for name in &names {
            if packing.add(name) {
                blocks.push(Vec::new());
            }
            let entry = DirectoryEntry {
                name,
                file: 9,
                kind: FileType::Regular,
            };
            blocks.last_mut().unwrap().push(entry);
        }
        assert_eq!(packing.full_blocks as usize, blocks.len() - 1);
        let last = blocks.pop().unwrap();
        assert_eq!(packing.entries_in_full as usize, names.len() - last.len());
        let mut bytes = Vec::new();
        encode(&last, &mut bytes);
        assert_eq!(bytes.len(), packing.last_bytes);
        for block in blocks {
            bytes.clear();
            encode(&block, &mut bytes);
            assert!(bytes.len() <= BLOCK && bytes.len() > BLOCK - ENTRY_BYTES - 255);
        }
    }
}
