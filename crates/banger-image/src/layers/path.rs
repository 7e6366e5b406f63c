//! What an entry's path says, before it is looked up. Pure.

use super::error::{EntryError, printable};

/// Longest path, as `PATH_MAX` has it.
pub(super) const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry is for, by its path alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Root,
    /// `name` in the directory at `parents`.
    Named {
        parents: &'a [u8],
        name: &'a [u8],
    },
    Whiteout {
        parents: &'a [u8],
        name: &'a [u8],
    },
    Opaque {
        directory: &'a [u8],
    },
    /// Bookkeeping of aufs.
    Ignored,
}

/// Checks a path and says what it is for. Nothing in the result has been resolved.
pub(super) fn classify(path: &[u8]) -> Result<Target<'_>, EntryError> {
    let (parents, name) = split(path)?;
    if name.is_empty() {
        return Ok(Target::Root);
    }
    if components(path).any(|part| part.starts_with(AUFS) && part != OPAQUE) {
        return Ok(Target::Ignored);
    }
    if let Some(parent) = components(parents).find(|part| part.starts_with(WHITEOUT)) {
        return Err(reserved(parent));
    }
    if name == OPAQUE {
        return Ok(Target::Opaque { directory: parents });
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Target::Named { parents, name }),
        Some(b"" | b"." | b"..") => Err(reserved(name)),
        Some(name) => Ok(Target::Whiteout { parents, name }),
    }
}

/// Checks a path and cuts off its last component, which is empty for the root.
pub(super) fn split(path: &[u8]) -> Result<(&[u8], &[u8]), EntryError> {
    if path.len() > MAX_PATH {
        return Err(EntryError::PathTooLong { max: MAX_PATH });
    }
    for part in components(path) {
        if part == b".." {
            return Err(EntryError::DotDot);
        }
        check_length(part)?;
    }
    if memchr::memchr(0, path).is_some() {
        return Err(EntryError::Nul);
    }
    let mut path = path;
    loop {
        let cut = memchr::memrchr(b'/', path).map_or(0, |slash| slash + 1);
        let (parents, name) = path.split_at(cut);
        match name {
            b"" | b"." if cut > 0 => path = parents.get(..cut - 1).unwrap_or_default(),
            b"." => return Ok((b"", b"")),
            name => return Ok((parents, name)),
        }
    }
}

/// Checks a name that an entry or a symlink wants to make as a directory.
pub(super) fn check_new_directory(name: &[u8]) -> Result<(), EntryError> {
    check_length(name)?;
    if name.starts_with(WHITEOUT) {
        return Err(reserved(name));
    }
    Ok(())
}

/// The components of a path; empty ones and `.` mean nothing.
pub(super) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
}

fn check_length(name: &[u8]) -> Result<(), EntryError> {
    if name.len() > MAX_NAME {
        return Err(EntryError::NameTooLong);
    }
    Ok(())
}

fn reserved(name: &[u8]) -> EntryError {
    EntryError::ReservedName {
        name: printable(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let named = |parents: &'static str, name: &'static str| {
            Ok(Target::Named {
                parents: parents.as_bytes(),
                name: name.as_bytes(),
            })
        };
        let long = "n".repeat(256);
        let deep = "d/".repeat(2049);
        for (path, expected) in [
            ("", Ok(Target::Root)),
            ("/", Ok(Target::Root)),
            ("./", Ok(Target::Root)),
            ("././/.", Ok(Target::Root)),
            ("a", named("", "a")),
            ("/a", named("/", "a")),
            ("./a/", named("./", "a")),
            ("a//b/./", named("a//", "b")),
            ("a/...", named("a/", "...")),
            ("..a", named("", "..a")),
            ("a/../b", Err(EntryError::DotDot)),
            ("..", Err(EntryError::DotDot)),
            ("a/..", Err(EntryError::DotDot)),
            (&long, Err(EntryError::NameTooLong)),
            (&deep, Err(EntryError::PathTooLong { max: 4096 })),
            ("a\0b", Err(EntryError::Nul)),
            (
                "a/.wh.b",
                Ok(Target::Whiteout {
                    parents: b"a/",
                    name: b"b",
                }),
            ),
            (
                "a/.wh.b/",
                Ok(Target::Whiteout {
                    parents: b"a/",
                    name: b"b",
                }),
            ),
            ("a/.wh..wh..opq", Ok(Target::Opaque { directory: b"a/" })),
            (".wh..wh..opq", Ok(Target::Opaque { directory: b"" })),
            (".wh..wh.plnk", Ok(Target::Ignored)),
            (".wh..wh.plnk/1.2", Ok(Target::Ignored)),
            (".wh.", Err(reserved(b".wh."))),
            (".wh..", Err(reserved(b".wh.."))),
            (".wh...", Err(reserved(b".wh..."))),
            (".wh.a/b", Err(reserved(b".wh.a"))),
            (".wh..wh..opq/b", Err(reserved(b".wh..wh..opq"))),
        ] {
            assert_eq!(classify(path.as_bytes()), expected, "{path}");
        }
    }
}
