//! newc cpio archives, as the kernel unpacks them (`Documentation/driver-api/early-userspace/
//! buffer-format.rst`). Pure.
//!
//! Owners are root, times are 0, inode numbers count up: the same entries give the same bytes.

use crate::kernel::KernelError;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// One file of the archive. A directory must come before what lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without a leading slash.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory,
    File(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
}

impl Entry {
    pub fn directory(name: impl Into<String>) -> Entry {
        Entry {
            name: name.into(),
            mode: 0o755,
            content: Content::Directory,
        }
    }

    pub fn file(name: impl Into<String>, mode: u32, bytes: Vec<u8>) -> Entry {
        Entry {
            name: name.into(),
            mode,
            content: Content::File(bytes),
        }
    }

    pub fn device(name: impl Into<String>, major: u32, minor: u32, mode: u32) -> Entry {
        Entry {
            name: name.into(),
            mode,
            content: Content::CharDevice { major, minor },
        }
    }
}

/// The whole archive with its trailer.
pub fn build(entries: &[Entry]) -> Result<Vec<u8>, KernelError> {
    let size: usize = entries
        .iter()
        .map(|entry| {
            let data = match &entry.content {
                Content::File(bytes) => bytes.len(),
                _ => 0,
            };
            // header, name, NUL, two paddings
            110 + entry.name.len() + data + 8
        })
        .sum();
    let mut out = Vec::with_capacity(size + 128);
    for (index, entry) in entries.iter().enumerate() {
        let (kind, data, device): (u32, &[u8], (u32, u32)) = match &entry.content {
            Content::Directory => (S_IFDIR, &[], (0, 0)),
            Content::File(bytes) => (S_IFREG, bytes, (0, 0)),
            Content::CharDevice { major, minor } => (S_IFCHR, &[], (*major, *minor)),
        };
        let links = if kind == S_IFDIR { 2 } else { 1 };
        push(
            &mut out,
            &entry.name,
            Header {
                inode: u32::try_from(index + 1).unwrap_or(u32::MAX),
                mode: kind | (entry.mode & 0o7777),
                links,
                device,
            },
            data,
        )?;
    }
    let trailer = Header {
        inode: 0,
        mode: 0,
        links: 1,
        device: (0, 0),
    };
    push(&mut out, "TRAILER!!!", trailer, &[])?;
    Ok(out)
}

struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

fn push(out: &mut Vec<u8>, name: &str, header: Header, data: &[u8]) -> Result<(), KernelError> {
    let size = u32::try_from(data.len()).map_err(|_| KernelError::TooLarge {
        what: name.to_owned(),
        limit: u64::from(u32::MAX),
    })?;
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    out.extend(b"070701");
    for field in [
        header.inode,
        header.mode,
        0, // uid
        0, // gid
        header.links,
        0, // mtime
        size,
        0, // device of the file itself
        0,
        header.device.0,
        header.device.1,
        name_size,
        0, // checksum: none in this format
    ] {
        out.extend(format!("{field:08x}").as_bytes());
    }
    out.extend(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend(data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = build(&[
            Entry::directory("dev"),
            Entry::device("dev/console", 5, 1, 0o600),
            Entry::file("init", 0o755, b"#!x\n!".to_vec()),
        ])
        .unwrap();
        let text = String::from_utf8(bytes).unwrap().replace('\0', "~");
        let expected = [
            // magic ino mode uid gid nlink mtime size maj min rmaj rmin namesize check name
            "070701000000010000 41ed00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000004 00000000 dev~~~",
            "070701000000020000 218000000000 00000000 00000001 00000000 00000000 00000000 00000000 00000005 00000001 0000000c 00000000 dev/console~~~",
            "070701000000030000 81ed00000000 00000000 00000001 00000000 00000005 00000000 00000000 00000000 00000000 00000005 00000000 init~~ #!x\n!~~~",
            "070701000000000000 000000000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 0000000b 00000000 TRAILER!!!~~~~",
        ];
        assert_eq!(text, expected.concat().replace(' ', ""));
    }

    #[test]
    fn every_part_is_aligned() {
        for len in 0..9 {
            let name = "n".repeat(len + 1);
            let bytes = build(&[Entry::file(name, 0o644, vec![b'x'; len])]).unwrap();
            assert_eq!(bytes.len() % 4, 0, "{len}");
        }
    }
}
