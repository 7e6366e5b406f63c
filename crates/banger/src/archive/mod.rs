//! Directories and files as one tar stream, written while it is sent.
//!
//! POSIX pax format with GNU 1.0 sparse files: owners as numbers, modes, times with nanoseconds,
//! extended attributes, hard links, symbolic links, devices, names of any bytes and length. Entries
//! are sorted by name, so that one tree is one stream.
//!
//! Limits: sockets are left out, since they mean nothing elsewhere, and so are the host's security
//! labels. Symbolic links are never followed below the directory that was named. A file that
//! shrinks while it is read is an error; one that grows is cut at the size it had.

mod header;
mod sparse;
mod walk;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_protocol::error::{ApiError, ErrorKind};

pub use walk::directory;

use header::{Entry, Kind};

/// Bytes read from a file at once.
const BUFFER: usize = 256 << 10;

/// A tar stream with one regular file, under its own name.
///
/// # Errors
/// What the file says; a failed write says that the receiver is gone.
pub fn single_file(path: &Path, out: &mut dyn Write) -> Result<(), ApiError> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    let entry = Entry {
        name: path.file_name().unwrap_or_default().as_bytes().to_vec(),
        kind: Kind::File {
            size: metadata.len(),
        },
        mode: metadata.mode() & 0o7777,
        mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
        ..Entry::default()
    };
    out.write_all(&entry.encode())
        .map_err(|error| gone(&error))?;
    copy_exactly(&mut file, metadata.len(), out, path)?;
    pad(metadata.len(), out)?;
    finish(out)
}

/// A file's bytes as they are.
pub fn plain(path: &Path, out: &mut dyn Write) -> Result<(), ApiError> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out
                .write_all(&buffer[..count])
                .map_err(|error| gone(&error))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
}

/// Two blocks of zeros end an archive.
fn finish(out: &mut dyn Write) -> Result<(), ApiError> {
    out.write_all(&[0; 2 * header::BLOCK])
        .map_err(|error| gone(&error))
}

fn pad(size: u64, out: &mut dyn Write) -> Result<(), ApiError> {
    let over = (size % header::BLOCK as u64) as usize;
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; header::BLOCK][over..])
        .map_err(|error| gone(&error))
}

fn copy_exactly(
    file: &mut File,
    mut left: u64,
    out: &mut dyn Write,
    path: &Path,
) -> Result<(), ApiError> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(left).unwrap_or(BUFFER).max(1))];
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => {
                return Err(ApiError::new(
                    ErrorKind::WrongState,
                    format!("{} became shorter while it was read", path.display()),
                )
                .hint("try again when nothing writes to it"));
            }
            Ok(count) => {
                out.write_all(&buffer[..count])
                    .map_err(|error| gone(&error))?;
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
    Ok(())
}

/// The path under its own absolute name; that of a pipe has none and stays as it is.
///
/// # Errors
/// There is nothing, or it may not be looked at.
pub fn locate(path: &Path) -> Result<PathBuf, ApiError> {
    let found = path.canonicalize().or_else(|error| {
        // /dev/stdin leads to a pipe, which can be opened but lies nowhere.
        path.metadata().map_err(|_| error)?;
        std::path::absolute(path)
    });
    found.map_err(|error| unreadable(path, &error))
}

/// A local file or directory that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> ApiError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::InvalidArgument,
    };
    let api_error = ApiError::new(kind, format!("cannot read {}: {error}", path.display()));
    match kind {
        ErrorKind::PermissionDenied => api_error
            .hint("banger reads local sources as you; make it readable, or run as its owner"),
        ErrorKind::NotFound => api_error.hint("write a path from here or from /"),
        _ => api_error,
    }
}

fn gone(error: &io::Error) -> ApiError {
    ApiError::new(
        ErrorKind::DaemonUnavailable,
        format!("bangerd stopped reading: {error}"),
    )
}
