//! POSIX access control lists: from tar's text to the value of `system.posix_acl_*`. Pure.
//!
//! The value is what `getxattr` returns: version 2, then tag, permissions and id of each entry,
//! little endian, in the order the kernel insists on.

use super::error::{TarError, printable};

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
/// Entries that name nobody carry this id.
const NO_ID: u32 = u32::MAX;

const USER_OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// `user::rw-,user:alice:r--:1000,group::r--,mask::r--,other::---`, separated by commas or lines.
/// A name is usable only with its id, as the third or the fourth field: there is no user database
/// here that could be the right one.
pub(super) fn from_text(text: &[u8]) -> Result<Vec<u8>, TarError> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let line = line.trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    entries.sort_unstable();
    check(&entries)?;
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

fn bad<T>(reason: &'static str) -> Result<T, TarError> {
    Err(TarError::BadAcl { reason })
}

fn entry(line: &[u8]) -> Result<(u16, u32, u16), TarError> {
    let fields: Vec<&[u8]> = line
        .split(|byte| *byte == b':')
        .map(<[u8]>::trim_ascii)
        .collect();
    let (tag, name, permissions, id) = match fields[..] {
        [tag, name, permissions] => (tag, name, permissions, None),
        [tag, name, permissions, id] => (tag, name, permissions, Some(id)),
        _ => return bad("an entry has the wrong number of fields"),
    };
    let named = !name.is_empty() || id.is_some_and(|id| !id.is_empty());
    let tag = match (tag, named) {
        (b"user" | b"u", false) => USER_OWNER,
        (b"user" | b"u", true) => USER,
        (b"group" | b"g", false) => GROUP_OWNER,
        (b"group" | b"g", true) => GROUP,
        (b"mask" | b"m", false) => MASK,
        (b"other" | b"o", false) => OTHER,
        _ => return bad("an entry has an unknown tag"),
    };
    let id = if named {
        numeric_id(id)
            .or_else(|| numeric_id(Some(name)))
            .or_else(|| (name == b"root").then_some(0))
            .ok_or_else(|| TarError::NamedAcl {
                name: printable(name),
            })?
    } else {
        NO_ID
    };
    let mut bits = 0;
    for byte in permissions {
        bits |= match byte {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return bad("an entry has unknown permissions"),
        };
    }
    Ok((tag, id, bits))
}

fn numeric_id(text: Option<&[u8]>) -> Option<u32> {
    let id = std::str::from_utf8(text?).ok()?;
    id.parse().ok().filter(|id| *id != NO_ID)
}

/// What the kernel demands, so that it can read what it will find.
fn check(entries: &[(u16, u32, u16)]) -> Result<(), TarError> {
    let count = |wanted| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    if [USER_OWNER, GROUP_OWNER, OTHER]
        .iter()
        .any(|tag| count(*tag) != 1)
    {
        return bad("owner, group and other must each be there once");
    }
    let needs_mask = count(USER) + count(GROUP) > 0;
    if count(MASK) > 1 || (needs_mask && count(MASK) == 0) {
        return bad("named entries need one mask");
    }
    if entries.windows(2).any(|pair| matches!(pair, [(tag, id, _), (next_tag, next_id, _)] if (tag, id) == (next_tag, next_id))) {
        return bad("an id is there twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_kernels_value() {
        let expected = [
            2, 0, 0, 0, //
            0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
            0x02, 0, 4, 0, 0, 0, 0, 0, //
            0x02, 0, 7, 0, 0xe8, 3, 0, 0, //
            0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
            0x10, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, //
            0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
        ];
        for text in [
            "user::rw-,user:root:r--,user:alice:rwx:1000,group::r--,mask::r-x,other::---",
            "mask::r-x\nu:1000:rwx\ng::r--\n# comment\nu::rw-\no::---\nu:0:r-- #effective:r--\n",
        ] {
            assert_eq!(from_text(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_the_kernel_could_not_read_is_refused() {
        for text in [
            "user::rw-",
            "user::rw-,user:alice:r--,group::r--,mask::r--,other::r--",
            "user::rw-,user:1:r--,group::r--,other::r--",
            "user::rw-,user:1:r--,user:1:rw-,group::r--,mask::r--,other::r--",
            "user::rwz,group::r--,other::r--",
            "user::rw-,group::r--,other:5:r--",
            "user::rw-,group::r--,other",
            "user::rw-,user:4294967295:r--,group::r--,mask::r--,other::r--",
        ] {
            assert!(from_text(text.as_bytes()).is_err(), "{text}");
        }
    }
}
