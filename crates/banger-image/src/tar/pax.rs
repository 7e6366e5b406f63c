//! pax extended headers: `length key=value\n` records. Pure.

use base64::Engine;

use super::error::{TarError, printable};
use super::sparse::Records;
use super::{Time, Xattr, acl, number};

/// What extended headers say about the next entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link_target: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Time>,
    pub sparse: Records,
    pub xattrs: Vec<Xattr>,
}

impl Extensions {
    /// Applies a whole `x` header. Later records win over earlier ones; a repeated attribute is
    /// kept twice, the later one behind.
    pub fn apply(&mut self, header: &[u8]) -> Result<(), TarError> {
        for record in Parser(header) {
            let (key, value) = record?;
            self.record(key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link_target = name(value)?,
            b"size" => self.size = optional(value, |text| number::decimal("size", text))?,
            b"uid" => self.uid = optional(value, |text| owner("uid", text))?,
            b"gid" => self.gid = optional(value, |text| owner("gid", text))?,
            b"mtime" => self.mtime = optional(value, |text| number::time("mtime", text))?,
            b"SCHILY.acl.access" => self.acl(acl::ACCESS, value)?,
            b"SCHILY.acl.default" => self.acl(acl::DEFAULT, value)?,
            b"SCHILY.acl.ace" => return Err(TarError::Nfs4Acl),
            b"RHT.security.selinux" => self.xattr(b"security.selinux", value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = base64(value)?;
                    self.xattr(&percent_decoded(name), &value)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse_record(key, value)?;
                }
                // Everything else describes what a base does not keep: atime, uname, charsets.
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        if name.contains(&0) {
            return Err(TarError::NulInName);
        }
        self.xattrs.push(Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        Ok(())
    }

    fn acl(&mut self, name: &'static [u8], text: &[u8]) -> Result<(), TarError> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        self.xattr(name, &acl::from_text(text)?)
    }

    fn sparse_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let sparse = &mut self.sparse;
        let decimal = |text| number::decimal("sparse record", text);
        match key {
            b"major" => sparse.major = Some(decimal(value)?),
            b"minor" => sparse.minor = Some(decimal(value)?),
            b"size" | b"realsize" => sparse.size = Some(decimal(value)?),
            b"name" => sparse.name = name(value)?,
            b"offset" | b"numbytes" => {
                if (key == b"offset") != sparse.numbers.len().is_multiple_of(2) {
                    return Err(TarError::BadSparseMap {
                        reason: "offsets and lengths do not alternate",
                    });
                }
                sparse.numbers.push(decimal(value)?);
            }
            b"map" => {
                sparse.numbers.clear();
                if !value.is_empty() {
                    for text in value.split(|byte| *byte == b',') {
                        sparse.numbers.push(decimal(text)?);
                    }
                }
            }
            // The count is implied by the map.
            _ => {}
        }
        sparse.any = true;
        Ok(())
    }
}

/// Checks a global header, of which only comments are accepted.
pub(super) fn check_global(header: &[u8]) -> Result<(), TarError> {
    for record in Parser(header) {
        let (key, _) = record?;
        if key != b"comment" {
            return Err(TarError::GlobalExtension {
                key: printable(key),
            });
        }
    }
    Ok(())
}

fn owner(field: &'static str, text: &[u8]) -> Result<u32, TarError> {
    let value = number::decimal(field, text)?;
    number::owner(field, value.try_into().unwrap_or(i64::MAX))
}

/// An empty value takes an earlier record back.
fn optional<T>(
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, TarError>,
) -> Result<Option<T>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some)
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    if value.contains(&0) {
        return Err(TarError::NulInName);
    }
    optional(value, |text| Ok(text.to_vec()))
}

fn base64(value: &[u8]) -> Result<Vec<u8>, TarError> {
    // libarchive writes no padding, other writers do.
    let end = value
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(value.get(..end).unwrap_or_default())
        .map_err(|_| TarError::BadExtension {
            reason: "an attribute is not base64",
        })
}

/// A `%` without two hexadecimal digits behind it stands for itself.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(byte) = name.get(at) {
        match (byte, hex(name.get(at + 1)), hex(name.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Iterates over records; ends after the first error.
struct Parser<'a>(&'a [u8]);

impl<'a> Iterator for Parser<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), TarError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Padding that some writers count as part of the header.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let (record, rest) = match split_record(self.0) {
            Ok(split) => split,
            Err(reason) => {
                self.0 = &[];
                return Some(Err(TarError::BadExtension { reason }));
            }
        };
        self.0 = rest;
        Some(Ok(record))
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn split_record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let blank = bytes
        .iter()
        .take(20)
        .position(|byte| *byte == b' ')
        .ok_or("a record has no length")?;
    let (digits, _) = bytes.split_at(blank);
    let length = number::decimal("record length", digits)
        .ok()
        .and_then(|length| usize::try_from(length).ok())
        .ok_or("a record's length is not a number")?;
    let (record, rest) = bytes
        .split_at_checked(length)
        .ok_or("a record is longer than the header")?;
    let record = record
        .get(blank + 1..)
        .and_then(|record| record.strip_suffix(b"\n"))
        .ok_or("a record does not end in a newline")?;
    let equals = memchr::memchr(b'=', record).ok_or("a record has no value")?;
    let (key, value) = record.split_at(equals);
    if key.is_empty() {
        return Err("a record has no key");
    }
    Ok(((key, value.get(1..).unwrap_or_default()), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Vec<u8> {
        let mut length = text.len() + 3;
        while format!("{length} {text}\n").len() != length {
            length += 1;
        }
        format!("{length} {text}\n").into_bytes()
    }

    #[test]
    fn records_apply_in_order() {
        let mut extensions = Extensions::default();
        let header: Vec<u8> = [
            "path=first",
            "path=second=third\nfourth",
            "uid=4000000000",
            "gid=7",
            "gid=",
            "mtime=-1.5",
            "LIBARCHIVE.xattr.user.a%3Db=aGk",
            "SCHILY.xattr.user.a=b=value",
            "SCHILY.xattr.user.x=1",
            "RHT.security.selinux=label",
        ]
        .iter()
        .flat_map(|text| record(text))
        .collect();
        extensions.apply(&header).unwrap();
        assert_eq!(
            extensions.path.as_deref(),
            Some(&b"second=third\nfourth"[..])
        );
        assert_eq!(
            (extensions.uid, extensions.gid),
            (Some(4_000_000_000), None)
        );
        assert_eq!(
            extensions.mtime,
            Some(Time {
                seconds: -2,
                nanoseconds: 500_000_000
            })
        );
        let xattrs: Vec<_> = extensions
            .xattrs
            .iter()
            .map(|xattr| (&xattr.name[..], &xattr.value[..]))
            .collect();
        assert_eq!(
            xattrs,
            [
                (&b"user.a=b"[..], &b"hi"[..]),
                (b"user.a", b"b=value"),
                (b"user.x", b"1"),
                (b"security.selinux", b"label"),
            ]
        );
    }

    #[test]
    fn malformed_records() {
        for header in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"6 a=b\nx",
            b"a=b\n",
            b"-6 a=b\n",
            b"4 a\n",
            b"5 =b\n",
            b"99999999999999999999 a=b\n",
            b"0 a=b\n",
        ] {
            assert!(Extensions::default().apply(header).is_err(), "{header:?}");
        }
        for text in [
            "path=a\0b",
            "linkpath=\0",
            "uid=4294967295",
            "uid=-1",
            "size=-5",
            "size=9223372036854775808",
            "mtime=now",
            "LIBARCHIVE.xattr.user.a=!!",
            "SCHILY.xattr.user.\0=",
            "SCHILY.acl.ace=x",
            "GNU.sparse.map=1,,2",
            "GNU.sparse.numbytes=4",
        ] {
            assert!(
                Extensions::default().apply(&record(text)).is_err(),
                "{text}"
            );
        }
        assert!(check_global(&record("comment=0123")).is_ok());
        assert!(check_global(&record("path=a")).is_err());
    }
}
