//! What files really take on the disk.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes allocated to an open file: its holes cost nothing.
pub fn allocated(file: &File) -> io::Result<u64> {
    Ok(blocks(&file.metadata()?))
}

/// Bytes and files of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes, directories included; a file with several names counts once.
    pub allocated: u64,
    pub files: u64,
}

/// Adds up a file or tree without following symbolic links. What disappears meanwhile counts as
/// nothing.
pub fn tree_usage(path: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut pending: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Some(metadata) = present(std::fs::symlink_metadata(&path))? else {
            continue;
        };
        if metadata.nlink() > 1
            && !metadata.is_dir()
            && !seen.insert((metadata.dev(), metadata.ino()))
        {
            continue;
        }
        usage.allocated += blocks(&metadata);
        if !metadata.is_dir() {
            usage.files += 1;
            continue;
        }
        let Some(entries) = present(std::fs::read_dir(&path))? else {
            continue;
        };
        for entry in entries {
            pending.push(entry?.path());
        }
    }
    Ok(usage)
}

/// `st_blocks` counts units of 512 bytes whatever the file system's block size.
fn blocks(metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_links_and_second_names_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(tree_usage(&root.join("absent")).unwrap(), Usage::default());
        let empty = tree_usage(root).unwrap();
        File::create(root.join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert_eq!(tree_usage(root).unwrap().allocated, empty.allocated);
        std::fs::write(root.join("data"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(root.join("data"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        let usage = tree_usage(root).unwrap();
        let data = usage.allocated - empty.allocated;
        assert!((100_000..200_000).contains(&data), "{data}");
        assert_eq!(usage.files, 3);
    }
}
