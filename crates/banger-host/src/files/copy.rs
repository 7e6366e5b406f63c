//! Copies a file's contents at the cost of its data, not of its length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// How [`copy_contents`] did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// Both files share extents until one is written.
    Reflink,
    /// Data was copied, holes were kept.
    Sparse,
}

/// Makes `to`, which must be empty, equal to `from`: by reflink where the file system can, else
/// extent by extent.
pub fn copy_contents(from: &File, to: &File) -> io::Result<CopyMethod> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(CopyMethod::Reflink);
    }
    copy_extents(from, to)?;
    Ok(CopyMethod::Sparse)
}

fn copy_extents(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // A file system without SEEK_DATA: everything is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                return copy_range(from, to, position, length);
            }
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?.min(length);
        copy_range(from, to, start, end)?;
        position = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            // The source shrank while we copied: what is gone reads as zeros.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_buffered(from, to, read_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_buffered(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut position = start;
    while position < end {
        let want = usize::try_from(end - position)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = from.read_at(&mut buffer[..want], position)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..count], position)?;
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::allocated;

    fn sparse_source() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(b"middle", (32 << 20) + 77).unwrap();
        file
    }

    fn check(copy: &File) {
        let mut buffer = [0; 6];
        copy.read_exact_at(&mut buffer, (32 << 20) + 77).unwrap();
        assert_eq!(&buffer, b"middle");
        copy.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"start\0");
        assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
        assert!(allocated(copy).unwrap() < 1 << 20, "holes were filled");
    }

    #[test]
    fn holes_stay_holes() {
        let source = sparse_source();
        let copy = tempfile::tempfile().unwrap();
        copy_contents(&source, &copy).unwrap();
        check(&copy);
    }

    #[test]
    fn every_fallback_copies_the_same() {
        let source = sparse_source();
        let copy = tempfile::tempfile().unwrap();
        copy_extents(&source, &copy).unwrap();
        check(&copy);
        let copy = tempfile::tempfile().unwrap();
        copy.set_len(64 << 20).unwrap();
        copy_buffered(&source, &copy, 0, 5).unwrap();
        copy_buffered(&source, &copy, 32 << 20, (32 << 20) + 100).unwrap();
        check(&copy);
    }

    #[test]
    fn empty_and_all_hole_files() {
        for length in [0, 1, 12 << 20] {
            let (source, copy) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            source.set_len(length).unwrap();
            copy_contents(&source, &copy).unwrap();
            assert_eq!(copy.metadata().unwrap().len(), length);
            assert_eq!(allocated(&copy).unwrap(), 0);
        }
    }
}
