//! Kernel images: from `vmlinux` or a bzImage to a checked, uncompressed ELF image.
//!
//! The bzImage layout is `Documentation/arch/x86/boot.rst` of the kernel: a real-mode setup header,
//! then protected-mode code which carries the compressed `vmlinux` as its payload.
//!
//! Limits: x86-64; payloads in gzip, xz, zstd or lz4; everything else is refused by its name. Images
//! are held in memory, bounded by [`MAX_IMAGE`] before and [`MAX_VMLINUX`] after decompression.

use std::io::{self, Read};

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

use super::KernelError;

/// Largest image file read; distribution kernels have 8 to 16 MiB, debug builds with symbols more.
pub const MAX_IMAGE: u64 = 512 << 20;
/// Largest uncompressed kernel.
pub const MAX_VMLINUX: u64 = 512 << 20;

/// An uncompressed kernel and what it says of itself.
#[derive(Debug)]
pub struct KernelImage {
    pub vmlinux: Vec<u8>,
    /// `uname -r`.
    pub version: String,
    /// Whether there is a PVH entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
    pub pvh: bool,
}

/// How a kernel or a module is packed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Xz,
    Zstd,
    /// The legacy format of `lz4 -l`, which kernels are packed in.
    Lz4,
    Other(&'static str),
}

fn packing(bytes: &[u8]) -> Option<Packing> {
    let magic: [(&[u8], Packing); 7] = [
        (b"\x1f\x8b", Packing::Gzip),
        (b"\xfd7zXZ\0", Packing::Xz),
        (b"\x28\xb5\x2f\xfd", Packing::Zstd),
        (b"BZh", Packing::Other("bzip2")),
        (b"\x5d\0\0", Packing::Other("lzma")),
        (b"\x89LZO", Packing::Other("lzo")),
        (b"\x02\x21\x4c\x18", Packing::Lz4),
    ];
    magic
        .into_iter()
        .find_map(|(m, kind)| bytes.starts_with(m).then_some(kind))
}

/// Unpacks `bytes` where they are packed, never to more than `limit` bytes.
///
/// Trailing bytes after the first stream are ignored: the kernel's build appends the unpacked size,
/// and a signed module its signature.
pub fn decompress(what: &str, bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, KernelError> {
    let Some(kind) = packing(&bytes) else {
        return Ok(bytes);
    };
    let broken = |source| KernelError::Decompress {
        what: what.to_owned(),
        source,
    };
    match kind {
        Packing::Gzip => read_bounded(what, flate2::read::GzDecoder::new(&bytes[..]), limit),
        // Reads the BCJ filters that the kernel's build uses from the stream itself.
        Packing::Xz => read_bounded(what, liblzma::read::XzDecoder::new(&bytes[..]), limit),
        Packing::Zstd => read_bounded(
            what,
            zstd::stream::read::Decoder::with_buffer(&bytes[..])
                .map_err(broken)?
                .single_frame(),
            limit,
        ),
        Packing::Lz4 => legacy_lz4(what, &bytes[4..], limit),
        Packing::Other(method) => Err(KernelError::UnsupportedCompression {
            path: what.to_owned(),
            method,
        }),
    }
}

/// Blocks of at most 8 MiB unpacked, each behind its packed size; behind the last one, in a bzImage,
/// the unpacked size of all (`lib/decompress_unlz4.c`).
fn legacy_lz4(what: &str, mut bytes: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    const BLOCK: usize = 8 << 20;
    let broken = |reason: String| KernelError::Decompress {
        what: what.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, reason),
    };
    let mut out = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some(size) = array(bytes, 0).map(u32::from_le_bytes) {
        bytes = &bytes[4..];
        if bytes.is_empty() {
            if size as usize != out.len() {
                return Err(broken("the unpacked size is wrong".into()));
            }
            return Ok(out);
        }
        let packed = bytes
            .get(..size as usize)
            .ok_or_else(|| broken("a block is truncated".into()))?;
        bytes = &bytes[packed.len()..];
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| broken(error.to_string()))?;
        if (out.len() + count) as u64 > limit {
            return Err(KernelError::TooLarge {
                what: what.to_owned(),
                limit,
            });
        }
        out.extend_from_slice(&block[..count]);
    }
    if bytes.is_empty() {
        Ok(out)
    } else {
        Err(broken("a block's size is truncated".into()))
    }
}

fn read_bounded(what: &str, reader: impl Read, limit: u64) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    let read = reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|source: io::Error| KernelError::Decompress {
            what: what.to_owned(),
            source,
        })?;
    if read as u64 > limit {
        return Err(KernelError::TooLarge {
            what: what.to_owned(),
            limit,
        });
    }
    Ok(out)
}

/// Takes an image file as it is found in a build directory or a package, and gives the kernel in it.
pub fn open(path: &str, bytes: Vec<u8>) -> Result<KernelImage, KernelError> {
    let not_a_kernel = |reason: &str| KernelError::NotAKernel {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if bytes.is_empty() {
        return Err(not_a_kernel("it is empty"));
    }
    let vmlinux = if bytes.starts_with(b"\x7fELF") {
        bytes
    } else if let Some(payload) = bzimage_payload(path, &bytes)? {
        if packing(payload).is_none() && !payload.starts_with(b"\x7fELF") {
            return Err(not_a_kernel("its payload is packed in an unknown way"));
        }
        decompress(path, payload.to_vec(), MAX_VMLINUX)?
    } else if bytes.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Err(KernelError::WrongArchitecture {
            path: path.to_owned(),
            found: "aarch64".into(),
        });
    } else if packing(&bytes).is_some() {
        // A whole vmlinux.gz, .xz or .zst.
        decompress(path, bytes, MAX_VMLINUX)?
    } else {
        return Err(not_a_kernel("it is neither an ELF file nor a bzImage"));
    };
    let pvh = check_elf(path, &vmlinux)?;
    let version =
        banner_version(&vmlinux).ok_or_else(|| not_a_kernel("it has no \"Linux version\" text"))?;
    Ok(KernelImage {
        vmlinux,
        version,
        pvh,
    })
}

/// The compressed payload of a bzImage; `None` where `bytes` are no bzImage at all.
fn bzimage_payload<'a>(path: &str, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, KernelError> {
    let not_a_kernel = |reason: &str| KernelError::NotAKernel {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if bytes.get(0x1fe..0x200) != Some(b"\x55\xaa") || bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    // Payload fields came with protocol 2.08 (Linux 2.6.26).
    let protocol =
        u16::from_le_bytes(array(bytes, 0x206).ok_or_else(|| not_a_kernel("truncated"))?);
    if protocol < 0x208 {
        return Err(not_a_kernel("its boot protocol is older than 2.08"));
    }
    let setup_sectors = match bytes[0x1f1] {
        0 => 4, // for compatibility with ancient kernels, says the protocol
        n => usize::from(n),
    };
    let field = |at| array(bytes, at).map(u32::from_le_bytes);
    let (Some(offset), Some(length)) = (field(0x248), field(0x24c)) else {
        return Err(not_a_kernel("its setup header is truncated"));
    };
    let start = (setup_sectors + 1) * 512 + offset as usize;
    start
        .checked_add(length as usize)
        .and_then(|end| bytes.get(start..end))
        .filter(|payload| !payload.is_empty())
        .map(Some)
        .ok_or_else(|| not_a_kernel("its payload lies outside the file"))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Checks that this is an executable for x86-64 with something to load, and finds the PVH note.
fn check_elf(path: &str, bytes: &[u8]) -> Result<bool, KernelError> {
    let not_a_kernel = |reason: String| KernelError::NotAKernel {
        path: path.to_owned(),
        reason,
    };
    if bytes.get(..4) != Some(b"\x7fELF") {
        return Err(not_a_kernel("what it holds is not an ELF file".into()));
    }
    let machine = array(bytes, 18).map(u16::from_le_bytes).map(elf::Machine);
    match (bytes.get(4), bytes.get(5), machine) {
        (Some(2), Some(1), Some(elf::EM_X86_64)) => {}
        (_, _, machine) => {
            return Err(KernelError::WrongArchitecture {
                path: path.to_owned(),
                found: match machine {
                    Some(elf::EM_AARCH64) => "aarch64".into(),
                    Some(elf::EM_386) => "i386".into(),
                    Some(elf::EM_RISCV) => "riscv".into(),
                    Some(other) => format!("ELF machine {}", other.0),
                    None => "nothing: its header is truncated".into(),
                },
            });
        }
    }
    let endian = object::LittleEndian;
    let broken = |e: object::read::Error| not_a_kernel(e.to_string());
    let header = elf::FileHeader64::<object::LittleEndian>::parse(bytes).map_err(broken)?;
    if header.e_type(endian) != elf::ET_EXEC && header.e_type(endian) != elf::ET_DYN {
        return Err(not_a_kernel(
            "it is an ELF object, not an executable".into(),
        ));
    }
    let segments = header.program_headers(endian, bytes).map_err(broken)?;
    let mut loadable = false;
    let mut pvh = false;
    for segment in segments {
        let kind = segment.p_type(endian);
        if kind == elf::PT_LOAD {
            segment
                .data(endian, bytes)
                .map_err(|()| not_a_kernel("a segment lies outside the file".into()))?;
            loadable = true;
        } else if kind == elf::PT_NOTE {
            let Some(mut notes) = segment.notes(endian, bytes).map_err(broken)? else {
                continue;
            };
            while let Some(note) = notes.next().map_err(broken)? {
                pvh |= note.name() == b"Xen" && note.n_type(endian).0 == XEN_ELFNOTE_PHYS32_ENTRY;
            }
        }
    }
    if !loadable {
        return Err(not_a_kernel("it has nothing to load".into()));
    }
    Ok(pvh)
}

/// `xen/include/public/elfnote.h`: the 32-bit entry point of the PVH boot protocol.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// The release in `Linux version 6.1.0-56-cloud-amd64 (…`, the kernel's banner.
///
/// The words occur in other strings as well; only the banner has a digit after them.
fn banner_version(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    memchr::memmem::find_iter(bytes, BANNER).find_map(|at| {
        let rest = bytes.get(at + BANNER.len()..)?;
        // __NEW_UTS_LEN
        let rest = &rest[..rest.len().min(65)];
        let end = memchr::memchr(b' ', rest)?;
        let text = &rest[..end];
        (text.first()?.is_ascii_digit() && text.contains(&b'.') && is_version(text))
            .then(|| String::from_utf8_lossy(text).into_owned())
    })
}

/// Whether a kernel version may name a directory.
pub(crate) fn is_version(text: &[u8]) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text[0] != b'.'
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+' | b'~'))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
