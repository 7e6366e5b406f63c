//! What the host's kernel sees of a tree, so that two trees can be compared entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use banger_image::digest::Digest;

#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    device: u64,
    /// Not of directories: what they say differs between file systems.
    size: u64,
    links: u64,
    /// The first of the file's names.
    first_name: String,
    /// Digest of the content, or the target.
    content: String,
    xattrs: BTreeMap<String, Vec<u8>>,
}

/// Everything below `root`, and `root` itself.
pub fn tree(root: &Path, directory_times: bool) -> BTreeMap<String, Seen> {
    let mut paths = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        if fs::symlink_metadata(&path).expect("stat").is_dir() {
            for entry in fs::read_dir(&path).expect("read a directory") {
                paths.push(entry.expect("read a directory").path());
            }
        }
        all.push(path);
    }
    all.sort();
    let mut first_names = BTreeMap::new();
    all.iter()
        .map(|path| {
            let name = path.strip_prefix(root).expect("below the root");
            // Lossless and printable.
            let name = name.as_os_str().as_bytes().escape_ascii().to_string();
            let meta = fs::symlink_metadata(path).expect("stat");
            let directory = meta.is_dir();
            let first_name = first_names
                .entry(meta.ino())
                .or_insert(name.clone())
                .clone();
            let content = if meta.is_symlink() {
                fs::read_link(path)
                    .expect("read a link")
                    .as_os_str()
                    .as_bytes()
                    .escape_ascii()
                    .to_string()
            } else if meta.is_file() {
                let file = fs::File::open(path).expect("open");
                Digest::of_reader(file).expect("read").0.to_string()
            } else {
                String::new()
            };
            let device = meta.file_type();
            let device = if device.is_char_device() || device.is_block_device() {
                meta.rdev()
            } else {
                0
            };
            let seen = Seen {
                mode: meta.mode(),
                uid: meta.uid(),
                gid: meta.gid(),
                mtime: if directory && !directory_times {
                    (0, 0)
                } else {
                    (meta.mtime(), meta.mtime_nsec())
                },
                device,
                size: if directory { 0 } else { meta.size() },
                links: if directory { 0 } else { meta.nlink() },
                first_name,
                content,
                xattrs: xattrs(path),
            };
            (name, seen)
        })
        .collect()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or_default();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])
                .expect("an attribute that is listed can be read");
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

/// Fails with the differing entries alone.
pub fn assert_same(what: &str, found: &BTreeMap<String, Seen>, expected: &BTreeMap<String, Seen>) {
    let mut differences = Vec::new();
    for name in found.keys().chain(expected.keys()) {
        let (found, expected) = (found.get(name), expected.get(name));
        if found != expected {
            differences.push(format!(
                "{name}:\n  found    {found:?}\n  expected {expected:?}"
            ));
        }
    }
    differences.dedup();
    assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
}
