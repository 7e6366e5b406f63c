//! From a tar stream to what matters in it: kernel images, modules, and what is built in.
//!
//! The stream is hostile: nothing is ever created under a name from it. Modules go to numbered files
//! in a directory of ours, and links, devices and directories are passed over, so that no ancestor
//! can be a symlink. `assemble` then gives the chosen few their checked names.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::image::{self, MAX_IMAGE};
use super::modinfo::{self, ModInfo};
use super::{KernelError, store};
use crate::decompress::{Stream, StreamError};
use crate::tar::{Entry, Kind, Piece, ReadError, Reader};

pub mod assemble;

/// Largest module, packed and unpacked; amdgpu.ko with debug information has 40 MiB.
const MAX_MODULE: u64 = 128 << 20;
/// Largest of the `modules.builtin` files.
const MAX_LIST: u64 = 16 << 20;
/// All modules unpacked. A distribution's full set has 400 MiB.
const MAX_TOTAL: u64 = 4 << 30;
/// Members of the archive, whatever they are.
const MAX_MEMBERS: usize = 200_000;

/// What an archive holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Path and bytes; only the first is kept whole, since more than one is an error.
    images: Vec<(String, Vec<u8>)>,
    /// By the directory in the archive that holds `kernel/…` and `modules.builtin`.
    trees: BTreeMap<String, Tree>,
    members: usize,
}

/// One `lib/modules/VERSION`.
#[derive(Debug, Default)]
struct Tree {
    modules: Vec<Spilled>,
    builtin: Option<Vec<u8>>,
    builtin_info: Option<Vec<u8>>,
}

/// A module written, unpacked, to a numbered file.
#[derive(Debug)]
struct Spilled {
    /// Below the tree, without a suffix of compression.
    path: String,
    file: PathBuf,
    info: ModInfo,
}

/// What a path in the archive stands for.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Image,
    Module { tree: String, path: String },
    Builtin { tree: String },
    BuiltinInfo { tree: String },
    Nothing,
}

/// Reads a whole archive. `spill` is an existing, empty directory.
pub fn read(archive: impl Read, spill: &Path) -> Result<Contents, KernelError> {
    let mut stream = Buffered(BufReader::with_capacity(1 << 18, archive));
    let mut reader = Reader::new(&mut stream, false);
    let mut contents = Contents::default();
    let mut total = 0;
    // The only file of an archive is an image, whatever its name.
    let mut lone: Option<(String, Vec<u8>)> = None;
    let mut files = 0;
    while let Some(entry) = reader.next_entry().map_err(archive_error)? {
        contents.members += 1;
        if contents.members > MAX_MEMBERS {
            return Err(KernelError::TooLarge {
                what: "the number of files in the archive".into(),
                limit: MAX_MEMBERS as u64,
            });
        }
        let Kind::File { size } = entry.kind else {
            continue;
        };
        files += 1;
        let path = checked_path(&entry)?;
        match role(&path) {
            Role::Image => {
                // A second one is an error already; its name is all that is needed.
                let bytes = if contents.images.is_empty() {
                    content(&mut reader, &path, size, MAX_IMAGE)?
                } else {
                    Vec::new()
                };
                contents.images.push((path, bytes));
            }
            Role::Module { tree, path: below } => {
                let bytes = content(&mut reader, &path, size, MAX_MODULE)?;
                let bytes = image::decompress(&path, bytes, MAX_MODULE)?;
                total += bytes.len() as u64;
                if total > MAX_TOTAL {
                    return Err(KernelError::TooLarge {
                        what: "the modules together".into(),
                        limit: MAX_TOTAL,
                    });
                }
                let info = modinfo::read(&below, &bytes)?;
                let file = spill.join(contents.members.to_string());
                std::fs::write(&file, bytes).map_err(KernelError::io("write", &file))?;
                contents
                    .trees
                    .entry(tree)
                    .or_default()
                    .modules
                    .push(Spilled {
                        path: below,
                        file,
                        info,
                    });
            }
            Role::Builtin { tree } => {
                let bytes = content(&mut reader, &path, size, MAX_LIST)?;
                contents.trees.entry(tree).or_default().builtin = Some(bytes);
            }
            Role::BuiltinInfo { tree } => {
                let bytes = content(&mut reader, &path, size, MAX_LIST)?;
                contents.trees.entry(tree).or_default().builtin_info = Some(bytes);
            }
            Role::Nothing if files == 1 && size <= MAX_IMAGE => {
                lone = Some((path.clone(), content(&mut reader, &path, size, MAX_IMAGE)?));
            }
            Role::Nothing => {}
        }
    }
    if files == 1 {
        contents.images.extend(lone);
    }
    Ok(contents)
}

/// The whole content of the current member; holes are zeros.
fn content<S: Stream>(
    reader: &mut Reader<'_, S>,
    path: &str,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, KernelError> {
    if size > limit {
        return Err(KernelError::TooLarge {
            what: path.to_owned(),
            limit,
        });
    }
    let mut bytes = Vec::new();
    while let Some(piece) = reader.piece().map_err(archive_error)? {
        match piece {
            Piece::Data(data) => bytes.extend_from_slice(data),
            // Within `size`, which the limit bounds.
            Piece::Hole(zeros) => {
                bytes.resize(
                    bytes.len() + usize::try_from(zeros).unwrap_or(usize::MAX),
                    0,
                );
            }
        }
    }
    Ok(bytes)
}

/// The member's path without `./` and the like. Others than plain relative paths are refused.
fn checked_path(entry: &Entry) -> Result<String, KernelError> {
    let refuse = |reason| KernelError::UnsafePath {
        path: String::from_utf8_lossy(&entry.path)
            .chars()
            .take(200)
            .collect(),
        reason,
    };
    if entry.path.starts_with(b"/") {
        return Err(refuse("it is absolute"));
    }
    let text = std::str::from_utf8(&entry.path).map_err(|_| refuse("it is not UTF-8"))?;
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refuse("it has a '..'")),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(refuse("it names no file"));
    }
    Ok(parts.join("/"))
}

/// Tells what a checked path is. Modules are below `lib/modules/VERSION` or `modules[/VERSION]`,
/// wherever these lie in the archive.
fn role(path: &str) -> Role {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some((tree, below)) = module_tree(path) {
        if modinfo::name_of_file(file).is_some() {
            return Role::Module {
                tree: tree.to_owned(),
                path: without_compression(below).to_owned(),
            };
        }
        if directory == tree {
            match file {
                "modules.builtin" => return Role::Builtin { tree: tree.into() },
                "modules.builtin.modinfo" => return Role::BuiltinInfo { tree: tree.into() },
                _ => {}
            }
        }
        // Fedora keeps the image there: lib/modules/VERSION/vmlinuz
    }
    let is_image = match file {
        "vmlinux" | "vmlinuz" | "bzImage" => true,
        _ => ["vmlinux-", "vmlinuz-", "bzImage-"].iter().any(|prefix| {
            // Not vmlinux-gdb.py, which lies beside vmlinux in a build tree.
            file.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        }),
    };
    if is_image { Role::Image } else { Role::Nothing }
}

/// Splits `…/modules/VERSION/kernel/a.ko` behind VERSION, and `…/modules/kernel/a.ko` behind
/// `modules`.
fn module_tree(path: &str) -> Option<(&str, &str)> {
    let start = if path.starts_with("modules/") {
        "modules/".len()
    } else {
        path.find("/modules/")? + "/modules/".len()
    };
    let rest = &path[start..];
    let first = rest.split('/').next()?;
    let is_version = first.starts_with(|c: char| c.is_ascii_digit()) && rest.len() > first.len();
    if is_version {
        let end = start + first.len();
        Some((&path[..end], &path[end + 1..]))
    } else {
        Some((&path[..start - 1], rest))
    }
}

fn without_compression(path: &str) -> &str {
    [".gz", ".xz", ".zst"]
        .iter()
        .find_map(|suffix| path.strip_suffix(suffix))
        .unwrap_or(path)
}

fn archive_error(error: ReadError) -> KernelError {
    KernelError::Archive {
        reason: match error {
            ReadError::Tar(error) => error.to_string(),
            ReadError::Stream(StreamError::Read(error)) => error.to_string(),
            ReadError::Stream(error) => error.to_string(),
        },
    }
}

/// A reader as the tar reader wants it.
struct Buffered<R>(BufReader<R>);

impl<R: Read> Stream for Buffered<R> {
    fn fill(&mut self) -> Result<&[u8], StreamError> {
        loop {
            match self.0.fill_buf() {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StreamError::Read(error)),
                // Asked again, since the borrow of a result that is returned would last too long.
                Ok(_) => return self.0.fill_buf().map_err(StreamError::Read),
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

#[cfg(test)]
#[path = "unpack/tests.rs"]
mod tests;
