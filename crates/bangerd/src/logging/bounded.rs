//! A log file that cannot fill the disk.
//!
//! Two files of at most half the bound each: the one being written, and the one before it with
//! `.old` at the end of its name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::rate::{Rate, Verdict};

/// Writes whole lines.
pub struct BoundedFile {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
    rate: Rate,
}

impl BoundedFile {
    /// # Errors
    /// The file cannot be opened for append.
    pub fn open(path: &Path, limit: u64) -> io::Result<BoundedFile> {
        let file = open(path)?;
        let written = file.metadata()?.len();
        Ok(BoundedFile {
            path: path.to_owned(),
            file,
            written,
            limit: limit / 2,
            rate: Rate::new(Instant::now()),
        })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.written > 0 && self.written.saturating_add(length) > self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            std::fs::rename(&self.path, old)?;
            self.file = open(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(line)?;
        self.written += length;
        Ok(())
    }
}

impl Write for BoundedFile {
    /// `line` is one line: the subscriber writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.rate.next(Instant::now()) {
            Verdict::Drop => {}
            Verdict::Write { dropped: 0 } => self.line(line)?,
            Verdict::Write { dropped } => {
                self.line(
                    format!("{{\"level\":\"WARN\",\"fields\":{{\"message\":\"lines were dropped\",\"count\":{dropped}}}}}\n")
                        .as_bytes(),
                )?;
                self.line(line)?;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_stay_below_the_bound_and_the_newest_lines_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedFile::open(&path, 2000).unwrap();
        for number in 0..500 {
            log.line(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        let old = std::fs::read_to_string(directory.path().join("log.old")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        assert!(old.len() <= 1000 && new.len() <= 1000);
        assert!(new.ends_with("line 0499\n"));
        let joined = old + &new;
        let first = joined.lines().next().unwrap();
        assert_eq!(
            first,
            format!("line {:04}", 500 - joined.lines().count()),
            "no line between is missing"
        );
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for _ in 0..3 {
            let mut log = BoundedFile::open(&path, 100).unwrap();
            log.line(&[b'x'; 20]).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 20);
        assert_eq!(
            std::fs::metadata(directory.path().join("log.old"))
                .unwrap()
                .len(),
            40
        );
    }
}
