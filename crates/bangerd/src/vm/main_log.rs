//! What `main` printed, kept on the host within a bound.
//!
//! ```text
//! vms/ID/main-RUN-OFFSET.log …    RUN: transition that started it, OFFSET: byte of that run's output
//! ```
//!
//! A segment's name and length say how far the output of its run was taken over, so a daemon that
//! was killed goes on with the very next byte. Once all segments together exceed the bound, the
//! oldest go. Reading follows the segments in the order of their names.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Segments kept of a full log: one more than this shares the bound between them.
const SEGMENTS: u64 = 8;

/// A piece of the log; ordered as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    run: u64,
    offset: u64,
}

impl Segment {
    fn file_name(self) -> String {
        format!("main-{:020}-{:020}.log", self.run, self.offset)
    }

    fn parse(name: &str) -> Option<Segment> {
        let (run, offset) = name
            .strip_prefix("main-")?
            .strip_suffix(".log")?
            .split_once('-')?;
        let segment = Segment {
            run: run.parse().ok()?,
            offset: offset.parse().ok()?,
        };
        (segment.file_name() == name).then_some(segment)
    }
}

/// In order. A directory that is not there has none.
fn segments(directory: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        if let Some(segment) = entry?.file_name().to_str().and_then(Segment::parse) {
            found.push(segment);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The writing end, for one run of `main`.
#[derive(Debug)]
pub struct MainLogWriter {
    directory: PathBuf,
    bound: u64,
    segment: Segment,
    file: File,
    length: u64,
    /// Older segments with their lengths, oldest first.
    older: VecDeque<(Segment, u64)>,
}

impl MainLogWriter {
    /// Goes on with `run`, where it was begun before.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn open(directory: &Path, run: u64, bound: u64) -> io::Result<Self> {
        let mut older = VecDeque::new();
        for segment in segments(directory)? {
            let length = fs::metadata(directory.join(segment.file_name()))?.len();
            older.push_back((segment, length));
        }
        let last = older
            .back()
            .copied()
            .filter(|(segment, _)| segment.run == run);
        let (segment, length) = match last {
            Some(last) => {
                older.pop_back();
                last
            }
            None => (Segment { run, offset: 0 }, 0),
        };
        Ok(MainLogWriter {
            file: open_segment(directory, segment)?,
            directory: directory.to_owned(),
            bound,
            segment,
            length,
            older,
        })
    }

    /// Number of the next byte of this run that is wanted.
    pub fn next_byte(&self) -> u64 {
        self.segment.offset + self.length
    }

    /// # Errors
    /// The disk is full, or worse. What was written stays written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.length;
        if let Err(error) = self.file.write_all(bytes) {
            // Part of it may be there, and must count.
            self.length = self
                .file
                .metadata()
                .map_or(before, |metadata| metadata.len());
            return Err(error);
        }
        self.length += bytes.len() as u64;
        if self.length > self.bound / SEGMENTS {
            self.next_segment(self.next_byte())?;
        }
        Ok(())
    }

    /// Notes that the guest itself dropped so many bytes here.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.next_segment(self.next_byte().saturating_add(bytes))
    }

    fn next_segment(&mut self, offset: u64) -> io::Result<()> {
        let next = Segment {
            run: self.segment.run,
            offset,
        };
        if next == self.segment {
            return Ok(());
        }
        let file = open_segment(&self.directory, next)?;
        self.older.push_back((self.segment, self.length));
        self.file = file;
        self.segment = next;
        self.length = 0;
        let mut total: u64 = self.older.iter().map(|(_, length)| length).sum();
        // Many losses make many empty segments, so their number is bounded, too.
        while (total > self.bound || self.older.len() as u64 > 4 * SEGMENTS)
            && let Some((oldest, length)) = self.older.pop_front()
        {
            total -= length;
            match fs::remove_file(self.directory.join(oldest.file_name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn open_segment(directory: &Path, segment: Segment) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(directory.join(segment.file_name()))
}

/// A place in the log.
#[derive(Debug)]
pub struct MainLogReader {
    directory: PathBuf,
    /// Segment being read and how far; `None` before the first.
    at: Option<(Segment, u64)>,
}

impl MainLogReader {
    /// From the oldest byte kept, or from the last `tail` lines on.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(directory: &Path, tail: Option<u32>) -> io::Result<Self> {
        let at = match tail {
            None => None,
            Some(lines) => start_of_tail(directory, lines)?,
        };
        Ok(MainLogReader {
            directory: directory.to_owned(),
            at,
        })
    }

    /// The next bytes; `None` where there are no more for now.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        let segments = segments(&self.directory)?;
        let from = segments
            .partition_point(|segment| self.at.is_some_and(|(current, _)| *segment < current));
        for segment in &segments[from..] {
            let position = match self.at {
                Some((current, position)) if current == *segment => position,
                _ => 0,
            };
            let bytes = match read_at(&self.directory.join(segment.file_name()), position) {
                Ok(bytes) => bytes,
                // It went between listing and opening; the next one is the oldest now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.at = Some((*segment, position + bytes.len() as u64));
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

fn read_at(path: &Path, position: u64) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Where the last `lines` lines begin; `None` means at the oldest byte.
fn start_of_tail(directory: &Path, lines: u32) -> io::Result<Option<(Segment, u64)>> {
    let mut wanted = u64::from(lines);
    let mut last_byte = true;
    for segment in segments(directory)?.into_iter().rev() {
        let mut file = File::open(directory.join(segment.file_name()))?;
        let length = file.metadata()?.len();
        let mut end = length;
        if wanted == 0 {
            return Ok(Some((segment, length)));
        }
        while end > 0 {
            let start = end.saturating_sub(CHUNK as u64);
            let mut block = vec![0; (end - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut block)?;
            for (index, byte) in block.iter().enumerate().rev() {
                // The line feed at the very end closes the last line and begins none.
                if *byte == b'\n' && !last_byte {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok(Some((segment, start + index as u64 + 1)));
                    }
                }
                last_byte = false;
            }
            end = start;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(directory: &Path, tail: Option<u32>) -> Vec<u8> {
        let mut reader = MainLogReader::open(directory, tail).unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = reader.next().unwrap() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn a_killed_daemon_goes_on_with_the_next_byte() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = MainLogWriter::open(directory.path(), 3, 1 << 20).unwrap();
        writer.append(b"hello ").unwrap();
        drop(writer);
        let mut writer = MainLogWriter::open(directory.path(), 3, 1 << 20).unwrap();
        assert_eq!(writer.next_byte(), 6);
        writer.skip(10).unwrap();
        assert_eq!(writer.next_byte(), 16);
        writer.append(b"world\n").unwrap();
        drop(writer);
        let writer = MainLogWriter::open(directory.path(), 3, 1 << 20).unwrap();
        assert_eq!(writer.next_byte(), 22);
        // A later run begins anew, behind what is there.
        let mut next = MainLogWriter::open(directory.path(), 12, 1 << 20).unwrap();
        assert_eq!(next.next_byte(), 0);
        next.append(b"again\n").unwrap();
        assert_eq!(all(directory.path(), None), b"hello world\nagain\n");
    }

    #[test]
    fn the_bound_holds_and_the_newest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let bound = 64 << 10;
        let mut writer = MainLogWriter::open(directory.path(), 1, bound).unwrap();
        for line in 0..20_000u32 {
            writer.append(format!("{line:09}\n").as_bytes()).unwrap();
        }
        let kept = all(directory.path(), None);
        assert!(
            kept.len() as u64 <= bound + bound / SEGMENTS + 10,
            "{}",
            kept.len()
        );
        assert!(kept.len() as u64 >= bound / 2);
        assert!(kept.ends_with(b"000019999\n"));
        // And over many losses.
        for _ in 0..1000 {
            writer.skip(1).unwrap();
        }
        assert!(segments(directory.path()).unwrap().len() < 50);
    }

    #[test]
    fn a_reader_follows_and_survives_what_it_reads_being_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let bound = 8 << 10;
        let mut writer = MainLogWriter::open(directory.path(), 1, bound).unwrap();
        let mut reader = MainLogReader::open(directory.path(), None).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        writer.append(b"one").unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), "one");
        writer.append(b"two").unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), "two");
        assert_eq!(reader.next().unwrap(), None);
        for _ in 0..100 {
            writer.append(&[b'x'; 1000]).unwrap();
        }
        writer.append(b"end").unwrap();
        let mut rest = Vec::new();
        while let Some(bytes) = reader.next().unwrap() {
            rest.extend_from_slice(&bytes);
        }
        assert!(rest.ends_with(b"end"));
        assert!(rest.len() < 20_000);
    }

    #[test]
    fn a_missing_directory_is_an_empty_log() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        assert_eq!(all(&gone, None), b"");
        assert_eq!(all(&gone, Some(3)), b"");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_tail_is_the_last_lines(
            lines in prop::collection::vec("[a-z]{0,40}", 0..60),
            finished: bool,
            wanted in 0u32..70,
            bound in 64u64..4096,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut text = lines.join("\n");
            if finished && !text.is_empty() {
                text.push('\n');
            }
            let mut writer = MainLogWriter::open(directory.path(), 1, bound * 100).unwrap();
            // Few enough that no segment is dropped.
            for piece in text.as_bytes().chunks(text.len() / 20 + 1) {
                writer.append(piece).unwrap();
                writer.skip(0).unwrap();
            }
            let all_lines: Vec<&str> = text.split_inclusive('\n').collect();
            let expected = all_lines[all_lines.len().saturating_sub(wanted as usize)..].concat();
            let got = all(directory.path(), Some(wanted));
            prop_assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
    }
}
