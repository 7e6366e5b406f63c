//! Where a file has data, and GNU's sparse map of it.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::header::BLOCK;

/// The parts of a file that hold data, in order, as offset and length. `None` where it is not worth
/// to treat it as sparse.
pub fn data(file: &File, size: u64, allocated: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    if allocated >= size {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system that does not tell holes; the caller reads it as a whole.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Data may have been appended since the size was read.
        if start >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        parts.push((start, end.saturating_sub(start)));
        at = end.max(start + 1);
    }
    Ok(Some(parts).filter(|parts| *parts != [(0, size)]))
}

/// GNU's map: the number of parts, then offset and length of each, one per line, padded to whole
/// blocks. A hole at the end is told by an empty part.
pub fn map(parts: &[(u64, u64)], size: u64) -> Vec<u8> {
    let ends_with_data = parts.last().is_some_and(|(at, length)| at + length == size);
    let end = (!ends_with_data).then_some((size, 0));
    let mut text = format!("{}\n", parts.len() + usize::from(end.is_some()));
    for (at, length) in parts.iter().copied().chain(end) {
        text.push_str(&format!("{at}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        for (parts, size, text) in [
            (&[][..], 9, "1\n9\n0\n"),
            (&[(0, 4)], 9, "2\n0\n4\n9\n0\n"),
            (&[(4, 5)], 9, "1\n4\n5\n"),
        ] {
            let map = map(parts, size);
            assert_eq!(map.len(), BLOCK);
            assert_eq!(&map[..text.len()], text.as_bytes());
            assert_eq!(map[text.len()], 0);
        }
    }

    #[test]
    fn holes_are_found_again() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 20).unwrap();
        let parts = data(&file, 4 << 20, 4096).unwrap().unwrap();
        assert_eq!(parts.len(), 1);
        let (at, length) = parts[0];
        assert!(at <= 1 << 20 && at + length > 1 << 20 && length < 2 << 20);
        assert_eq!(data(&file, 4 << 20, 4 << 20).unwrap(), None);
    }
}
