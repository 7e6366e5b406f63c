//! Reads a base back: an EROFS reader of its own, written from the format and not from the writer,
//! which checks what the kernel would trip over.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// A device or a fifo.
    Special,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
    pub device: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub content: Content,
    /// The file's number: names of one file share it.
    pub number: u64,
    pub size: u64,
}

pub struct Image<'a> {
    bytes: &'a [u8],
    metadata: u64,
    root: u64,
    /// Content of larger files is not read, and shown as empty.
    pub max_content: u64,
}

/// Largest content that is read into memory, unless the reader asks for less.
const MAX_CONTENT: u64 = 64 << 20;

impl<'a> Image<'a> {
    pub fn open(bytes: &'a [u8]) -> Image<'a> {
        let mut image = Image {
            bytes,
            metadata: 0,
            root: 0,
            max_content: MAX_CONTENT,
        };
        assert_eq!(bytes.len() % 4096, 0);
        assert!(bytes[..1024].iter().all(|byte| *byte == 0));
        assert_eq!(image.u32(1024), 0xe0f5_e1e2, "magic");
        let mut block = bytes[1024..4096].to_vec();
        block[4..8].fill(0);
        assert_eq!(image.u32(1028), !crc32c::crc32c(&block), "checksum");
        assert_eq!(image.u32(1032), 3, "compatible features");
        assert_eq!(bytes[1036], 12, "block size");
        assert_eq!(image.u64(1048), 0, "time of building");
        assert_eq!(u64::from(image.u32(1060)) * 4096, bytes.len() as u64);
        assert_eq!(image.u32(1104) & !4, 0, "incompatible features");
        image.metadata = u64::from(image.u32(1064)) * 4096;
        image.root = u64::from(image.u16(1038));
        assert_ne!(image.root, 0);
        image
    }

    pub fn uuid(&self) -> &[u8] {
        &self.bytes[1072..1088]
    }

    pub fn uses_chunks(&self) -> bool {
        self.u32(1104) & 4 != 0
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().expect("two bytes"))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// All files by path; the root's is empty.
    pub fn files(&self) -> BTreeMap<Vec<u8>, File> {
        let mut files = BTreeMap::new();
        let mut queue = vec![(Vec::new(), self.root, self.root)];
        let mut names = BTreeMap::<u64, u32>::new();
        while let Some((path, number, parent)) = queue.pop() {
            let (file, entries) = self.file(number);
            *names.entry(number).or_default() += 1;
            if file.content == Content::Directory {
                let mut subdirectories = 0;
                for (name, target, kind) in &entries {
                    let (child, _) = self.file(*target);
                    assert_eq!(*kind, entry_type(child.mode), "type of {name:?}");
                    match &name[..] {
                        b"." => assert_eq!(*target, number),
                        b".." => assert_eq!(*target, parent),
                        _ => {
                            subdirectories += u32::from(child.content == Content::Directory);
                            let path = if path.is_empty() {
                                name.clone()
                            } else {
                                [&path[..], b"/", name].concat()
                            };
                            queue.push((path, *target, number));
                        }
                    }
                }
                assert!(entries.iter().any(|(name, ..)| name == b"."));
                assert!(entries.iter().any(|(name, ..)| name == b".."));
                assert_eq!(file.links, subdirectories + 2);
            }
            files.insert(path, file);
        }
        for (path, file) in &files {
            if file.content != Content::Directory {
                assert_eq!(file.links, names[&file.number], "links of {path:?}");
            }
        }
        assert_eq!(self.u64(1040), names.len() as u64, "number of inodes");
        files
    }

    fn file(&self, number: u64) -> (File, Vec<(Vec<u8>, u64, u8)>) {
        let at = (self.metadata + number * 32) as usize;
        let format = self.u16(at);
        assert_eq!(format & 1, 1, "inodes are extended");
        let layout = format >> 1;
        let xattr_bytes = match self.u16(at + 2) {
            0 => 0,
            count => 12 + 4 * (usize::from(count) - 1),
        };
        let mode = u32::from(self.u16(at + 4));
        let size = self.u64(at + 8);
        let union = self.u32(at + 16);
        let behind = at + 64 + xattr_bytes;
        let read = || {
            assert!(size <= MAX_CONTENT, "{size} bytes are too many for a test");
            let size = size as usize;
            match layout {
                0 => self.at_block(union, size),
                2 => {
                    let tail = size % 4096;
                    assert_eq!(
                        at / 4096,
                        (behind + tail - 1) / 4096,
                        "a tail leaves its block"
                    );
                    let mut content = self.at_block(union, size - tail);
                    content.extend(&self.bytes[behind..behind + tail]);
                    content
                }
                4 => self.chunks(behind, union, size),
                other => panic!("layout {other}"),
            }
        };
        let mut entries = Vec::new();
        let content = match mode & 0o170_000 {
            0o040_000 => {
                entries = directory(&read());
                Content::Directory
            }
            0o100_000 if size > self.max_content => Content::File(Vec::new()),
            0o100_000 => Content::File(read()),
            0o120_000 => Content::Symlink(read()),
            0o010_000 | 0o020_000 | 0o060_000 => Content::Special,
            other => panic!("type {other:o}"),
        };
        let file = File {
            mode,
            uid: self.u32(at + 24),
            gid: self.u32(at + 28),
            mtime: (self.u64(at + 32).cast_signed(), self.u32(at + 40)),
            links: self.u32(at + 44),
            device: if content == Content::Special {
                union
            } else {
                0
            },
            xattrs: self.xattrs(at + 64, xattr_bytes),
            content,
            number,
            size,
        };
        (file, entries)
    }

    fn at_block(&self, block: u32, size: usize) -> Vec<u8> {
        let start = block as usize * 4096;
        self.bytes[start..start + size].to_vec()
    }

    fn chunks(&self, map: usize, format: u32, size: usize) -> Vec<u8> {
        assert!(self.uses_chunks());
        assert_eq!(map % 4, 0);
        let chunk = 4096_usize << format;
        let mut content = Vec::new();
        for index in 0..size.div_ceil(chunk) {
            let length = chunk.min(size - index * chunk);
            match self.u32(map + 4 * index) {
                u32::MAX => content.resize(content.len() + length, 0),
                block => content.extend(self.at_block(block, length)),
            }
        }
        content
    }

    fn xattrs(&self, start: usize, length: usize) -> BTreeMap<String, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        if length == 0 {
            return xattrs;
        }
        assert_eq!(self.bytes[start + 4], 0, "no shared attributes");
        let mut at = start + 12;
        while at < start + length {
            let name_length = usize::from(self.bytes[at]);
            let prefix = match self.bytes[at + 1] {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("prefix {other}"),
            };
            let value_length = usize::from(self.u16(at + 2));
            let name = &self.bytes[at + 4..at + 4 + name_length];
            let value = at + 4 + name_length;
            let name = format!("{prefix}{}", String::from_utf8_lossy(name));
            let value = self.bytes[value..value + value_length].to_vec();
            assert!(xattrs.insert(name, value).is_none());
            at = (at + 4 + name_length + value_length).next_multiple_of(4);
        }
        assert_eq!(at, start + length);
        xattrs
    }
}

fn directory(content: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
    let mut entries: Vec<(Vec<u8>, u64, u8)> = Vec::new();
    for block in content.chunks(4096) {
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([block[at], block[at + 1]]));
        let count = u16_at(8) / 12;
        assert!(count > 0 && u16_at(8) % 12 == 0);
        for index in 0..count {
            let at = index * 12;
            let number = u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
            let start = u16_at(at + 8);
            let end = if index + 1 < count {
                u16_at(at + 12 + 8)
            } else {
                let rest = &block[start..];
                start
                    + rest
                        .iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(rest.len())
            };
            entries.push((block[start..end].to_vec(), number, block[at + 10]));
        }
    }
    assert!(
        entries.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "names are sorted and there once"
    );
    entries
}

fn entry_type(mode: u32) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        other => panic!("type {other:o}"),
    }
}
