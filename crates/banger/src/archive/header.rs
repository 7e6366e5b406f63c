//! One entry's header: a ustar block, after a pax header where the block cannot say it all. Pure.

/// Unit of a tar archive.
pub const BLOCK: usize = 512;

/// Largest numbers the octal fields of a ustar block hold.
const MAX_ID: u32 = 0o777_7777;
const MAX_SIZE: u64 = 0o777_7777_7777;
/// Bytes of the fields for name and link target.
const NAME: usize = 100;

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    File {
        size: u64,
    },
    /// A file with holes, in GNU's format 1.0: the map is part of the data.
    Sparse {
        real_size: u64,
        stored_size: u64,
    },
    #[default]
    Directory,
    Symlink(Vec<u8>),
    /// To an earlier entry.
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One entry, without its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Relative; of a directory with `/` at its end.
    pub name: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch; the latter count forward also before it.
    pub mtime: (i64, u32),
    pub xattrs: Xattrs,
}

impl Entry {
    /// The header blocks; the data, padded to whole blocks, follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut name = self.name.clone();
        let (flag, size, link, device) = match &self.kind {
            Kind::File { size } => (b'0', *size, &[][..], (0, 0)),
            Kind::Sparse {
                real_size,
                stored_size,
            } => {
                record(&mut records, b"GNU.sparse.major", b"1");
                record(&mut records, b"GNU.sparse.minor", b"0");
                record(&mut records, b"GNU.sparse.name", &name);
                record(
                    &mut records,
                    b"GNU.sparse.realsize",
                    real_size.to_string().as_bytes(),
                );
                name = b"GNUSparseFile.0/sparse".to_vec();
                (b'0', *stored_size, &[][..], (0, 0))
            }
            Kind::Directory => (b'5', 0, &[][..], (0, 0)),
            Kind::Symlink(target) => (b'2', 0, target.as_slice(), (0, 0)),
            Kind::HardLink(target) => (b'1', 0, target.as_slice(), (0, 0)),
            Kind::CharDevice(major, minor) => (b'3', 0, &[][..], (*major, *minor)),
            Kind::BlockDevice(major, minor) => (b'4', 0, &[][..], (*major, *minor)),
            Kind::Fifo => (b'6', 0, &[][..], (0, 0)),
        };
        if name.len() > NAME {
            record(&mut records, b"path", &name);
        }
        if link.len() > NAME {
            record(&mut records, b"linkpath", link);
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if id > MAX_ID {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if size > MAX_SIZE {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = self.mtime;
        let plain_mtime = u64::try_from(seconds).ok().filter(|s| *s <= MAX_SIZE);
        if nanoseconds != 0 || plain_mtime.is_none() {
            record(&mut records, b"mtime", decimal(self.mtime).as_bytes());
        }
        for (key, value) in &self.xattrs {
            let key = [b"SCHILY.xattr.", key.as_slice()].concat();
            record(&mut records, &key, value);
        }

        let mut blocks = Vec::with_capacity(2 * BLOCK + records.len());
        if !records.is_empty() {
            blocks.extend(Block::new(b"pax", b'x', 0o644, records.len() as u64).finish());
            blocks.extend(&records);
            blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        }
        let mut block = Block::new(&name, flag, self.mode, size.min(MAX_SIZE));
        block.octal(108, 8, u64::from(self.uid.min(MAX_ID)));
        block.octal(116, 8, u64::from(self.gid.min(MAX_ID)));
        block.octal(136, 12, plain_mtime.unwrap_or(0));
        block.text(157, NAME, link);
        if let Kind::CharDevice(..) | Kind::BlockDevice(..) = self.kind {
            // Linux device numbers (12 and 20 bits) fit 7 octal digits.
            block.octal(329, 8, u64::from(device.0));
            block.octal(337, 8, u64::from(device.1));
        }
        blocks.extend(block.finish());
        blocks
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// A time as a decimal number of seconds.
fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    let fraction = format!("{:09}", total % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", total / 1_000_000_000)
}

struct Block([u8; BLOCK]);

impl Block {
    fn new(name: &[u8], flag: u8, mode: u32, size: u64) -> Self {
        let mut block = Block([0; BLOCK]);
        block.text(0, NAME, name);
        block.octal(100, 8, u64::from(mode));
        block.octal(108, 8, 0);
        block.octal(116, 8, 0);
        block.octal(124, 12, size);
        block.octal(136, 12, 0);
        block.0[156] = flag;
        block.text(257, 8, b"ustar\x0000");
        block
    }

    /// Cut at the field's end: then a pax record has the whole.
    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        let length = text.len().min(room);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    fn octal(&mut self, at: usize, room: usize, value: u64) {
        let digits = format!("{value:0width$o}", width = room - 1);
        self.text(at, room, digits.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.text(148, 8, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        let digits = format!("{sum:06o}\0 ");
        self.text(148, 8, digits.as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (time, text) in [
            ((0, 0), "0"),
            ((1, 500_000_000), "1.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 0), "-1"),
            ((5_000_000_000, 1), "5000000000.000000001"),
        ] {
            assert_eq!(decimal(time), text);
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 0..1200 {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; length]);
            let text = String::from_utf8(records).unwrap();
            let (number, _) = text.split_once(' ').unwrap();
            assert_eq!(number.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn what_fits_needs_no_pax_header() {
        let entry = Entry {
            name: vec![b'n'; NAME],
            kind: Kind::File { size: MAX_SIZE },
            uid: MAX_ID,
            mtime: (1_700_000_000, 0),
            ..Entry::default()
        };
        assert_eq!(entry.encode().len(), BLOCK);
        let longer = Entry {
            name: vec![b'n'; NAME + 1],
            ..entry
        };
        assert_eq!(longer.encode().len(), 3 * BLOCK);
    }
}
