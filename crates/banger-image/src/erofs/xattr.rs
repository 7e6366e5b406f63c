//! Extended attributes behind an inode. Pure.

/// Bytes in front of the first attribute.
pub(super) const HEADER_BYTES: usize = 12;
/// An inode counts the words of its attributes in 16 bits.
const MAX_ENTRY_BYTES: usize = (u16::MAX as usize - 1) * 4;

/// A name as EROFS stores it. The order is the order on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum XattrName<'a> {
    AclAccess,
    AclDefault,
    Prefixed {
        namespace: Namespace,
        suffix: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Namespace {
    User,
    Trusted,
    Security,
}

impl<'a> XattrName<'a> {
    /// `None` where neither EROFS nor Linux has the namespace.
    pub fn of(name: &'a [u8]) -> Option<XattrName<'a>> {
        match name {
            b"system.posix_acl_access" => return Some(XattrName::AclAccess),
            b"system.posix_acl_default" => return Some(XattrName::AclDefault),
            _ => {}
        }
        [
            (&b"user."[..], Namespace::User),
            (b"trusted.", Namespace::Trusted),
            (b"security.", Namespace::Security),
        ]
        .into_iter()
        .find_map(|(prefix, namespace)| {
            let suffix = name.strip_prefix(prefix)?;
            Some(XattrName::Prefixed { namespace, suffix })
        })
    }

    fn parts(self) -> (u8, &'a [u8]) {
        match self {
            XattrName::AclAccess => (2, b""),
            XattrName::AclDefault => (3, b""),
            XattrName::Prefixed { namespace, suffix } => match namespace {
                Namespace::User => (1, suffix),
                Namespace::Trusted => (4, suffix),
                Namespace::Security => (6, suffix),
            },
        }
    }
}

/// Header and entries; `None` if they are more than an inode can have.
pub(crate) fn encode(xattrs: &[(XattrName<'_>, &[u8])]) -> Option<Box<[u8]>> {
    let mut bytes = vec![0; HEADER_BYTES];
    for (name, value) in xattrs {
        let (index, suffix) = name.parts();
        bytes.push(u8::try_from(suffix.len()).ok()?);
        bytes.push(index);
        bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(suffix);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    (bytes.len() <= HEADER_BYTES + MAX_ENTRY_BYTES).then(|| bytes.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_on_disk() {
        let name = XattrName::of(b"security.ab").unwrap();
        let encoded = encode(&[(XattrName::AclAccess, b"x"), (name, b"yz")]).unwrap();
        let expected = [
            &[0; 12][..],
            &[0, 2, 1, 0, b'x', 0, 0, 0],
            &[2, 6, 2, 0, b'a', b'b', b'y', b'z'],
        ]
        .concat();
        assert_eq!(encoded[..], expected[..]);
        assert_eq!(XattrName::of(b"system.other"), None);
        assert_eq!(XattrName::of(b"user"), None);
    }
}
