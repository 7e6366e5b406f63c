//! Debian binary packages: an `ar` archive whose member `data.tar` is the file tree (deb(5)).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::KernelError;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// A package has three members; a few more are allowed by deb(5), but not without end.
const MAX_MEMBERS: usize = 16;

/// The uncompressed tar stream of a package's files.
pub fn data_tar(mut file: File) -> Result<Box<dyn Read + Send>, KernelError> {
    let broken = |reason: &str| KernelError::Archive {
        reason: format!("not a Debian package: {reason}"),
    };
    let io = |error: io::Error| KernelError::Archive {
        reason: error.to_string(),
    };
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(io)?;
    if &magic != MAGIC {
        return Err(broken("it does not begin as one"));
    }
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(io(e)),
        }
        let (name, size) = member(&header).ok_or_else(|| broken("a member's header is damaged"))?;
        if let Some(suffix) = name.strip_prefix("data.tar") {
            let member = BufReader::with_capacity(1 << 18, file.take(size));
            return Ok(match suffix {
                "" => Box::new(member),
                ".xz" => Box::new(liblzma::bufread::XzDecoder::new(member)),
                ".gz" => Box::new(flate2::bufread::GzDecoder::new(member)),
                ".zst" => Box::new(zstd::stream::read::Decoder::with_buffer(member).map_err(io)?),
                _ => return Err(broken("its files are packed in an unknown way")),
            });
        }
        // Members begin at even offsets.
        let skip = i64::try_from(size)
            .ok()
            .and_then(|size| size.checked_add(size % 2))
            .ok_or_else(|| broken("a member is too large"))?;
        file.seek(SeekFrom::Current(skip)).map_err(io)?;
    }
    Err(broken("it has no files"))
}

/// Name and size from an ar header: name 16, mtime 12, uid 6, gid 6, mode 8, size 10, end 2.
fn member(header: &[u8; HEADER]) -> Option<(String, u64)> {
    if header[58..] != *b"`\n" {
        return None;
    }
    let name = std::str::from_utf8(&header[..16]).ok()?.trim_end();
    let size = std::str::from_utf8(&header[48..58]).ok()?.trim_end();
    // `parse` would take a sign.
    if !size.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((name.trim_end_matches('/').to_owned(), size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (name, data) in members {
            let header = format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                data.len()
            );
            out.extend(header.as_bytes());
            out.extend(*data);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let mut out = Vec::new();
        data_tar(file)
            .map_err(|e| e.to_string())?
            .read_to_end(&mut out)
            .map_err(|e| e.to_string())?;
        Ok(out)
    }

    #[test]
    fn the_files_are_found_and_unpacked() {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"tree").unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"tree").unwrap();
        for (name, data) in [
            ("data.tar", b"tree".to_vec()),
            ("data.tar.xz", xz.finish().unwrap()),
            ("data.tar.gz", gz.finish().unwrap()),
            ("data.tar.zst/", zstd::encode_all(&b"tree"[..], 1).unwrap()),
        ] {
            let package = ar(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar", b"odd"),
                (name, &data),
            ]);
            assert_eq!(read(&package).as_deref(), Ok(&b"tree"[..]), "{name}");
        }
    }

    #[test]
    fn damaged_packages_are_refused() {
        let mut bad_end = ar(&[("data.tar", b"x")]);
        bad_end[66] = b'x';
        let mut bad_size = ar(&[("data.tar", b"x")]);
        bad_size[56] = b'-';
        for bytes in [
            b"".to_vec(),
            b"!<arch>".to_vec(),
            b"PK\x03\x04aaaaaaaaaaaa".to_vec(),
            ar(&[("debian-binary", b"2.0\n")]),
            ar(&[("data.tar.lzma", b"x")]),
            ar(&vec![("x", &b"y"[..]); 40]),
            bad_end,
            bad_size,
        ] {
            assert!(
                read(&bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}
