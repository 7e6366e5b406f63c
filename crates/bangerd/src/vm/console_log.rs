//! Reading a VM's serial console, which its driver writes and cuts.
//!
//! The file lies in the jail while a machine runs, where whoever took over the VMM may have put
//! something else in its place; so it is opened without following links and only if it is a plain
//! file with one name. Past its cap the driver drops the older half: a follower finds its place
//! again by the last bytes it read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_host::files::{open_beneath, open_directory};
use banger_vmm::jail_path::CONSOLE_LOG;
use bytes::Bytes;
use memchr::memmem;
use rustix::fs::OFlags;

use super::host::JAIL;
use crate::config::LONGEST_CONSOLE;

/// Most bytes read of a console, which the driver keeps shorter.
const MOST: u64 = LONGEST_CONSOLE.0;

/// How many of the last bytes mark the reader's place.
const MARK: usize = 1024;

/// A place in a VM's console.
#[derive(Debug)]
pub struct ConsoleReader {
    directory: PathBuf,
    position: u64,
    mark: Vec<u8>,
    tail: Option<u32>,
}

impl ConsoleReader {
    /// `directory` is the VM's. From the oldest byte kept, or from the last `tail` lines on.
    pub fn open(directory: &Path, tail: Option<u32>) -> Self {
        ConsoleReader {
            directory: directory.to_owned(),
            position: 0,
            mark: Vec::new(),
            tail,
        }
    }

    /// The next bytes; `None` where there are no more for now.
    ///
    /// # Errors
    /// The log cannot be read, or is not a log.
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(mut file) = open_log(&self.directory)? else {
            return Ok(None);
        };
        let length = file.metadata()?.len();
        if length < self.position {
            self.position = self.place_again(&mut file)?;
        }
        if length == self.position {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        let kept = bytes.len().saturating_sub(MARK);
        self.mark.extend_from_slice(&bytes[kept..]);
        self.mark.drain(..self.mark.len().saturating_sub(MARK));
        if let Some(lines) = self.tail.take() {
            let start = start_of_tail(&bytes, lines);
            bytes.drain(..start);
        }
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// Where the bytes that were read end in a file that was cut.
    fn place_again(&self, file: &mut File) -> io::Result<u64> {
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(MOST).read_to_end(&mut all)?;
        // In linear time, whatever the guest printed to make it longer.
        let found = (!self.mark.is_empty())
            .then(|| memmem::rfind(&all, &self.mark))
            .flatten();
        Ok(found.map_or(0, |start| (start + self.mark.len()) as u64))
    }
}

/// The running machine's console, else that of the latest one.
fn open_log(directory: &Path) -> io::Result<Option<File>> {
    for place in [directory.join(JAIL), directory.to_owned()] {
        let opened = open_directory(&place).and_then(|place| {
            open_beneath(
                &place,
                Path::new(CONSOLE_LOG),
                OFlags::RDONLY | OFlags::NONBLOCK,
                0,
            )
        });
        let file = match opened {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the console log is not a plain file",
            ));
        }
        return Ok(Some(file));
    }
    Ok(None)
}

fn start_of_tail(bytes: &[u8], lines: u32) -> usize {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut wanted = lines;
    if wanted == 0 {
        return bytes.len();
    }
    for (index, byte) in body.iter().enumerate().rev() {
        if *byte == b'\n' {
            wanted -= 1;
            if wanted == 0 {
                return index + 1;
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(reader: &mut ConsoleReader) -> Option<String> {
        let bytes = reader.next().unwrap()?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn follows_over_a_cut_and_prefers_the_running_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONSOLE_LOG);
        let mut reader = ConsoleReader::open(directory.path(), None);
        assert_eq!(read(&mut reader), None);
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(read(&mut reader).as_deref(), Some("one\ntwo\n"));
        assert_eq!(read(&mut reader), None);
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(read(&mut reader).as_deref(), Some("three\n"));
        let long = "x".repeat(5000);
        fs::write(&path, format!("one\ntwo\nthree\n{long}mark\n")).unwrap();
        reader.next().unwrap();
        fs::write(&path, format!("{}mark\nafter\n", &long[..2000])).unwrap();
        assert_eq!(read(&mut reader).as_deref(), Some("after\n"));

        fs::create_dir(directory.path().join(JAIL)).unwrap();
        fs::write(directory.path().join(JAIL).join(CONSOLE_LOG), "running\n").unwrap();
        let mut reader = ConsoleReader::open(directory.path(), None);
        assert_eq!(read(&mut reader).as_deref(), Some("running\n"));
    }

    #[test]
    fn what_a_vmm_put_in_its_place_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let jail = directory.path().join(JAIL);
        fs::create_dir(&jail).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", jail.join(CONSOLE_LOG)).unwrap();
        assert!(ConsoleReader::open(directory.path(), None).next().is_err());
        fs::remove_file(jail.join(CONSOLE_LOG)).unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "s").unwrap();
        fs::hard_link(&secret, jail.join(CONSOLE_LOG)).unwrap();
        assert!(ConsoleReader::open(directory.path(), None).next().is_err());
    }

    #[test]
    fn tails() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            assert_eq!(
                &text[start_of_tail(text.as_bytes(), lines)..],
                expected,
                "{text:?}"
            );
        }
    }
}
