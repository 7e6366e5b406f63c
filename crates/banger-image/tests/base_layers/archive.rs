//! Makes tar archives byte by byte, so that bad ones can be made too.

/// One member: a header, pax records in front of it, content behind it.
#[derive(Clone)]
pub struct Member {
    pub flag: u8,
    pub path: Vec<u8>,
    pub target: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    /// Size in the header, if not that of the content.
    pub size: Option<u64>,
    pub device: (u32, u32),
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    pub content: Vec<u8>,
    pub magic: &'static [u8; 8],
}

pub const USTAR: &[u8; 8] = b"ustar\x0000";
pub const GNU: &[u8; 8] = b"ustar  \0";

impl Member {
    pub fn new(flag: u8, path: impl AsRef<[u8]>) -> Member {
        Member {
            flag,
            path: path.as_ref().to_vec(),
            target: Vec::new(),
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            size: None,
            device: (0, 0),
            records: Vec::new(),
            content: Vec::new(),
            magic: USTAR,
        }
    }

    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
        let mut member = Member::new(b'0', path);
        member.content = content.as_ref().to_vec();
        member
    }

    pub fn directory(path: impl AsRef<[u8]>) -> Member {
        Member::new(b'5', path)
    }

    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
        Member::new(b'1', path).target(target)
    }

    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
        let mut member = Member::new(b'2', path).target(target);
        member.mode = 0o777;
        member
    }

    pub fn device(flag: u8, path: &str, major: u32, minor: u32) -> Member {
        let mut member = Member::new(flag, path);
        member.device = (major, minor);
        member
    }

    pub fn target(mut self, target: impl AsRef<[u8]>) -> Member {
        self.target = target.as_ref().to_vec();
        self
    }

    pub fn mode(mut self, mode: u32) -> Member {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Member {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn size(mut self, size: u64) -> Member {
        self.size = Some(size);
        self
    }

    pub fn gnu(mut self) -> Member {
        self.magic = GNU;
        self
    }

    pub fn record(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Member {
        self.records
            .push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Member {
        self.record(format!("SCHILY.xattr.{name}"), value)
    }

    /// The header block alone, its checksum right.
    pub fn header(&self) -> [u8; 512] {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.path[..self.path.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, &number(self.uid, 8));
        put(116, &number(self.gid, 8));
        put(
            124,
            &number(self.size.unwrap_or(self.content.len() as u64), 12),
        );
        put(136, &number(self.mtime, 12));
        put(156, &[self.flag]);
        put(157, &self.target[..self.target.len().min(100)]);
        put(257, self.magic);
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        seal(&mut block);
        block
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut records = self.records.clone();
        for (key, value) in [("path", &self.path), ("linkpath", &self.target)] {
            if value.len() > 100 {
                records.push((key.into(), value.clone()));
            }
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let content = pax(&records);
            let mut extension = Member::new(b'x', "PaxHeaders/x");
            extension.content = content;
            bytes.extend(extension.bytes());
        }
        bytes.extend(self.header());
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// Octal where it fits, base-256 otherwise.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}", digits = width - 1);
    if octal.len() < width {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; width - 8.min(width)];
    bytes.extend(&value.to_be_bytes());
    bytes[0] |= 0x80;
    bytes
}

/// Writes the checksum of a header block.
pub fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn pax(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        bytes.extend(format!("{length} ").as_bytes());
        bytes.extend(key);
        bytes.push(b'=');
        bytes.extend(value);
        bytes.push(b'\n');
    }
    bytes
}

/// Members, then the end marker.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(Member::bytes).collect();
    bytes.extend([0; 1024]);
    bytes
}
