//! Takes an archive apart: each regular member becomes a file named by its digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::bad_member;
use crate::decompress::{Compression, Stream, StreamError, decompressed};
use crate::digest::{Digest, RunningDigest};
use crate::error::{Corruption, ImageError, InvalidImage};
use crate::manifest::MAX_DOCUMENT;
use crate::tar::{Kind, Piece, ReadError, Reader};

/// Most members: an image has a few per layer, an archive some images.
const MAX_MEMBERS: usize = 100_000;
/// Longest name of a member.
const MAX_NAME: usize = 1024;
/// Longest chain of links from one member to another.
const MAX_LINKS: usize = 8;
/// Blobs of an OCI layout are named by their digest.
const BLOB_PREFIX: &str = "blobs/sha256/";

/// An archive on disk. Dropping it removes what was not kept.
pub(crate) struct Spool {
    directory: TempDir,
    members: HashMap<String, Member>,
}

enum Member {
    Blob {
        digest: Digest,
        size: u64,
    },
    /// The normalised name of another member.
    Link(String),
}

/// Reads the whole archive.
pub(crate) fn spool(
    what: &str,
    input: impl Read + Send,
    staging: &Path,
    max_bytes: u64,
) -> Result<Spool, ImageError> {
    let directory = tempfile::Builder::new()
        .prefix("archive-")
        .tempdir_in(staging)
        .map_err(|error| ImageError::io("create a directory in", staging, error))?;
    let mut spool = Spool {
        directory,
        members: HashMap::new(),
    };
    let read = decompressed(input, Compression::Auto, max_bytes, |stream| {
        spool.fill(what, stream)
    });
    match read {
        Ok((outcome, _)) => outcome.map(|()| spool),
        Err(error) => Err(stream_error(what, error)),
    }
}

impl Spool {
    fn fill(&mut self, what: &str, stream: &mut impl Stream) -> Result<(), ImageError> {
        let mut reader = Reader::new(stream, true);
        let fail = |error| read_error(what, error);
        let invalid = |error| ImageError::invalid(what, error);
        while let Some(entry) = reader.next_entry().map_err(fail)? {
            let name = normalised(&entry.path, "").map_err(invalid)?;
            if self.members.len() >= MAX_MEMBERS {
                return Err(invalid(InvalidImage::Document {
                    document: "the archive",
                    what: format!("made of more than {MAX_MEMBERS} members"),
                }));
            }
            let member = match entry.kind {
                Kind::Directory => continue,
                Kind::File { .. } => self.file(what, &name, &mut reader)?,
                // docker save links layers which several images share.
                Kind::Symlink { target } => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Member::Link(normalised(&target, parent).map_err(invalid)?)
                }
                Kind::HardLink { target } => {
                    Member::Link(normalised(&target, "").map_err(invalid)?)
                }
                Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {
                    return Err(invalid(bad_member(&name, "is neither file nor link")));
                }
            };
            if self.members.insert(name.clone(), member).is_some() {
                return Err(invalid(bad_member(&name, "is there twice")));
            }
        }
        reader.drain().map_err(fail)
    }

    fn file(
        &self,
        what: &str,
        name: &str,
        reader: &mut Reader<'_, impl Stream>,
    ) -> Result<Member, ImageError> {
        let write_failed = |error| ImageError::io("write", self.directory.path(), error);
        let mut staged =
            tempfile::NamedTempFile::new_in(self.directory.path()).map_err(write_failed)?;
        let mut running = RunningDigest::new();
        while let Some(piece) = reader.piece().map_err(|error| read_error(what, error))? {
            let Piece::Data(bytes) = piece else {
                return Err(ImageError::invalid(what, bad_member(name, "is sparse")));
            };
            staged.write_all(bytes).map_err(write_failed)?;
            running.update(bytes);
        }
        let (digest, size) = (running.digest(), running.bytes());
        if let Some(hex) = name.strip_prefix(BLOB_PREFIX)
            && let Ok(expected) = Digest::from_hex(hex)
            && expected != digest
        {
            return Err(ImageError::corrupt(
                format!("member {name} of {what}"),
                Corruption::Digest {
                    expected,
                    found: digest,
                },
            ));
        }
        staged
            .persist(self.path(&digest))
            .map_err(|error| write_failed(error.error))?;
        Ok(Member::Blob { digest, size })
    }

    /// Where a blob lies until it is moved away.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.path().join(digest.hex())
    }

    /// Digest and size of a member, through links.
    pub fn blob(&self, name: &str) -> Result<(Digest, u64), InvalidImage> {
        let missing = || InvalidImage::MissingMember(name.chars().take(200).collect());
        let mut current = normalised(name.as_bytes(), "")?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&current).ok_or_else(missing)? {
                Member::Blob { digest, size } => return Ok((*digest, *size)),
                Member::Link(target) => current = target.clone(),
            }
        }
        Err(bad_member(name, "is a link that leads nowhere"))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The blob of this digest, wherever it stood.
    pub fn blob_by_digest(&self, digest: &Digest) -> Result<(Digest, u64), InvalidImage> {
        self.blob(&format!("{BLOB_PREFIX}{}", digest.hex()))
    }

    /// The bytes of a small member.
    pub fn document(&self, what: &str, name: &str) -> Result<Vec<u8>, ImageError> {
        let (digest, size) = self
            .blob(name)
            .map_err(|error| ImageError::invalid(what, error))?;
        if size > MAX_DOCUMENT {
            let reason = format!("is longer than {MAX_DOCUMENT} bytes");
            return Err(ImageError::invalid(what, bad_member(name, reason)));
        }
        let path = self.path(&digest);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| ImageError::io("read", path, error))?;
        Ok(bytes)
    }
}

/// A name without `.` and empty components, `..` resolved; it never leaves the archive.
fn normalised(name: &[u8], parent: &str) -> Result<String, InvalidImage> {
    let Ok(text) = std::str::from_utf8(name) else {
        let shown = String::from_utf8_lossy(name);
        return Err(bad_member(&shown, "has a name that is not UTF-8"));
    };
    if text.len() > MAX_NAME {
        return Err(bad_member(text, "has too long a name"));
    }
    let mut words: Vec<&str> = Vec::new();
    let base = if text.starts_with('/') { "" } else { parent };
    for word in base.split('/').chain(text.split('/')) {
        match word {
            "" | "." => {}
            ".." => {
                if words.pop().is_none() {
                    return Err(bad_member(text, "leads out of the archive"));
                }
            }
            word => words.push(word),
        }
    }
    Ok(words.join("/"))
}

fn read_error(what: &str, error: ReadError) -> ImageError {
    match error {
        ReadError::Tar(error) => ImageError::invalid(
            what,
            InvalidImage::Document {
                document: "the archive",
                what: format!("not a tar archive: {error}"),
            },
        ),
        ReadError::Stream(error) => stream_error(what, error),
    }
}

fn stream_error(what: &str, error: StreamError) -> ImageError {
    match error {
        StreamError::Read(source) => ImageError::SourceBroken {
            what: what.to_owned(),
            source,
        },
        StreamError::TooLong { max } => ImageError::TooLarge {
            what: what.to_owned(),
            limit: "max_download_bytes",
            max,
        },
        error => ImageError::invalid(
            what,
            InvalidImage::Document {
                document: "the archive",
                what: format!("unreadable: {error}"),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_archive() {
        for (name, parent, expected) in [
            ("./a//b/", "", Some("a/b")),
            ("/a", "x", Some("a")),
            ("../b.tar", "a", Some("b.tar")),
            ("x/../y", "", Some("y")),
            (".", "", Some("")),
            ("..", "", None),
            ("../..", "a", None),
            ("../../../etc/passwd", "a/b", None),
        ] {
            assert_eq!(
                normalised(name.as_bytes(), parent).ok().as_deref(),
                expected,
                "{name}"
            );
        }
        assert!(normalised(b"\xff", "").is_err());
        assert!(normalised(&[b'a'; 2000], "").is_err());
    }
}
