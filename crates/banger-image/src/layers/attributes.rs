//! Which extended attributes may reach the base, and in which form. Pure.

use std::collections::BTreeSet;

use super::error::{EntryError, printable};
use crate::erofs::XattrName;
use crate::erofs::xattr;
use crate::tar::Xattr;

/// `setxattr` takes values of one byte more, EROFS does not.
const MAX_VALUE: usize = 65_535;
const MAX_NAME: usize = 255;
/// Names of dropped attributes that a summary keeps.
const MAX_DROPPED: usize = 16;

/// Attributes of overlayfs that tell it nothing about what to show.
const BOOK_KEEPING: [&[u8]; 6] = [
    b"origin",
    b"impure",
    b"nlink",
    b"upper",
    b"uuid",
    b"protattr",
];

/// Attributes that were left out, by name.
pub(super) type Dropped = BTreeSet<String>;

/// Filters, checks and encodes the attributes of one file; `None` where none are left.
pub(super) fn encode(
    mut xattrs: Vec<Xattr>,
    dropped: &mut Dropped,
) -> Result<Option<Box<[u8]>>, EntryError> {
    if xattrs.is_empty() {
        return Ok(None);
    }
    // The sort is stable: of several under one name the last one is the one that counts.
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut kept = Vec::with_capacity(xattrs.len());
    for (index, xattr) in xattrs.iter().enumerate() {
        if xattrs
            .get(index + 1)
            .is_some_and(|next| next.name == xattr.name)
        {
            continue;
        }
        if let Some(name) = checked(xattr, dropped)? {
            kept.push((name, &xattr.value[..]));
        }
    }
    kept.sort_unstable();
    if kept.is_empty() {
        return Ok(None);
    }
    xattr::encode(&kept)
        .map(Some)
        .ok_or_else(|| refused(&[], "all attributes together are too long"))
}

/// The attribute's name as EROFS has it, or `None` for one that is dropped.
fn checked<'a>(
    xattr: &'a Xattr,
    dropped: &mut Dropped,
) -> Result<Option<XattrName<'a>>, EntryError> {
    let name = &xattr.name[..];
    if name.len() > MAX_NAME {
        return Err(refused(name, "its name is longer than 255 bytes"));
    }
    if xattr.value.len() > MAX_VALUE {
        return Err(refused(name, "its value is longer than 65535 bytes"));
    }
    for prefix in [&b"trusted.overlay."[..], b"user.overlay."] {
        if let Some(what) = name.strip_prefix(prefix) {
            if BOOK_KEEPING.contains(&what) {
                drop_name(name, dropped);
                return Ok(None);
            }
            return Err(EntryError::OverlayAttribute {
                name: printable(name),
            });
        }
    }
    let Some(encoded) = XattrName::of(name) else {
        drop_name(name, dropped);
        return Ok(None);
    };
    match encoded {
        XattrName::AclAccess | XattrName::AclDefault => match acl_entries(&xattr.value) {
            Some(0..=3) if encoded == XattrName::AclAccess => return Ok(None),
            Some(_) => {}
            None => return Err(refused(name, "it is not a POSIX access control list")),
        },
        XattrName::Prefixed { suffix: b"", .. } => {
            return Err(refused(name, "it has no name behind its namespace"));
        }
        XattrName::Prefixed { .. } => {}
    }
    Ok(Some(encoded))
}

/// Number of entries of a list which the kernel would accept. Three or fewer say what the mode
/// says already.
fn acl_entries(value: &[u8]) -> Option<usize> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    if !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut last_tag = 0;
    let mut seen = 0_u16;
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes(entry.first_chunk().copied()?);
        let permissions = u16::from_le_bytes(entry.get(2..4)?.first_chunk().copied()?);
        let known = matches!(tag, 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20);
        // Only named users and groups may be there more than once.
        let repeated = seen & tag != 0 && !matches!(tag, 0x02 | 0x08);
        if !known || repeated || tag < last_tag || permissions > 7 {
            return None;
        }
        seen |= tag;
        last_tag = tag;
    }
    let needs_mask = seen & 0x0a != 0 && seen & 0x10 == 0;
    (seen & 0x25 == 0x25 && !needs_mask).then_some(entries.len() / 8)
}

fn drop_name(name: &[u8], dropped: &mut Dropped) {
    if dropped.len() < MAX_DROPPED {
        dropped.insert(printable(name));
    }
}

fn refused(name: &[u8], reason: &'static str) -> EntryError {
    EntryError::Attribute {
        name: printable(name),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Encoded = Result<Option<Box<[u8]>>, EntryError>;

    /// What the attributes become, and the names of those that were dropped.
    fn encoded(names: &[(&str, &[u8])]) -> (Encoded, Vec<String>) {
        let xattrs = names
            .iter()
            .map(|(name, value)| Xattr {
                name: name.as_bytes().to_vec(),
                value: value.to_vec(),
            })
            .collect();
        let mut dropped = Dropped::new();
        let result = encode(xattrs, &mut dropped);
        (result, dropped.into_iter().collect())
    }

    #[test]
    fn order_does_not_matter_and_the_last_of_a_name_wins() {
        let (one, _) = encoded(&[("user.b", b"2"), ("user.a", b"0"), ("user.a", b"1")]);
        let (other, _) = encoded(&[("user.a", b"1"), ("user.b", b"2")]);
        assert!(one.is_ok() && one == other);
    }

    #[test]
    fn what_overlayfs_would_obey_is_refused() {
        for name in [
            "opaque",
            "redirect",
            "metacopy",
            "whiteout",
            "whiteouts",
            "new-one",
            "",
        ] {
            for space in ["trusted", "user"] {
                let name = format!("{space}.overlay.{name}");
                let (result, _) = encoded(&[(&name, b"y")]);
                assert_eq!(result, Err(EntryError::OverlayAttribute { name }));
            }
        }
        let (result, dropped) = encoded(&[
            ("trusted.overlay.origin", b"x"),
            ("user.overlay.impure", b"y"),
            ("com.apple.quarantine", b"q"),
            ("system.nfs4_acl", b"n"),
        ]);
        assert_eq!(result, Ok(None));
        assert_eq!(
            dropped,
            [
                "com.apple.quarantine",
                "system.nfs4_acl",
                "trusted.overlay.origin",
                "user.overlay.impure"
            ]
        );
    }

    #[test]
    fn lists_must_be_readable_for_the_kernel() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes
        };
        let none = u32::MAX;
        let list = |entries: &[Vec<u8>]| [&2_u32.to_le_bytes()[..], &entries.concat()].concat();
        let minimal = list(&[entry(1, 6, none), entry(4, 4, none), entry(0x20, 4, none)]);
        let named = list(&[
            entry(1, 6, none),
            entry(2, 6, 1000),
            entry(4, 4, none),
            entry(0x10, 6, none),
            entry(0x20, 4, none),
        ]);
        let unmasked = list(&[
            entry(1, 6, none),
            entry(2, 6, 1000),
            entry(4, 4, none),
            entry(0x20, 4, none),
        ]);
        let access = "system.posix_acl_access";
        assert_eq!(
            encoded(&[(access, &minimal)]).0,
            Ok(None),
            "the mode says it"
        );
        assert!(matches!(encoded(&[(access, &named)]).0, Ok(Some(_))));
        for bad in [
            &unmasked[..],
            &named[..20],
            b"",
            b"\x01\0\0\0",
            &[2, 0, 0, 0, 3],
        ] {
            assert!(encoded(&[(access, bad)]).0.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let long = format!("user.{}", "n".repeat(251));
        let value = vec![0; 65_536];
        for (name, value) in [(&long[..], &b""[..]), ("user.a", &value), ("user.", b"")] {
            assert!(encoded(&[(name, value)]).0.is_err(), "{name}");
        }
        let names: Vec<_> = (0..5).map(|n| format!("user.{n}")).collect();
        let many: Vec<_> = names
            .iter()
            .map(|name| (&name[..], &value[..65_000]))
            .collect();
        assert!(encoded(&many).0.is_err(), "more than an inode can point at");
        assert!(matches!(encoded(&many[..4]).0, Ok(Some(_))));
    }
}
