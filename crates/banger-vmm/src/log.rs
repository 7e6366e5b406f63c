//! A log file that stays under a cap, and a pump that fills it at a bounded rate.
//!
//! The writer on the other end is hostile (a guest's console, a VMM under attack): it chooses
//! how much and what, so size, rate and the file itself are ours.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use banger_host::files::open_beneath;
use rustix::fs::OFlags;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::Instant;

/// Size past which a log loses its older half.
pub(crate) const DEFAULT_CAP: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct BoundedLog {
    file: File,
    length: u64,
    cap: u64,
}

impl BoundedLog {
    /// Opens or makes the file. One that is a link, has a second name or belongs to another user
    /// was put there by the VMM and is refused.
    pub(crate) fn open(
        directory: BorrowedFd<'_>,
        name: &str,
        cap: u64,
        truncate: bool,
    ) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NONBLOCK;
        let file = File::from(open_beneath(directory, Path::new(name), flags, 0o600)?);
        let metadata = file.metadata()?;
        let ours = metadata.is_file()
            && metadata.nlink() == 1
            && metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "not a log file of ours",
            ));
        }
        if truncate {
            file.set_len(0)?;
        }
        let length = if truncate { 0 } else { metadata.len() };
        Ok(Self { file, length, cap })
    }

    /// Appends; past the cap only the newer half stays, from the start of a line. What a full file
    /// system does not take is lost.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = self.try_append(bytes);
        if result.is_err() {
            // Some of it may have been written, or the older half be gone.
            self.length = self.file.metadata()?.len();
        }
        result
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let incoming = bytes.len() as u64;
        if self.length.saturating_add(incoming) > self.cap {
            self.shorten()?;
        }
        // One chunk larger than the cap: its end is what counts.
        let skip = usize::try_from(incoming.saturating_sub(self.cap)).unwrap_or(0);
        self.file.write_all(&bytes[skip..])?;
        self.length += incoming - skip as u64;
        Ok(())
    }

    fn shorten(&mut self) -> io::Result<()> {
        let keep = self.length.min(self.cap / 2);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(self.length - keep))?;
        Read::by_ref(&mut self.file)
            .take(keep)
            .read_to_end(&mut tail)?;
        let start = tail
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        self.file.set_len(0)?;
        self.file.write_all(&tail[start..])?;
        self.length = (tail.len() - start) as u64;
        Ok(())
    }
}

/// The last `limit` bytes of a log.
pub(crate) fn read_tail(directory: BorrowedFd<'_>, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let mut file = File::from(open_beneath(directory, Path::new(name), flags, 0)?);
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How fast a log may grow: bytes a second in the long run, and at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

/// A whole verbose boot passes at once; a flood costs us 16 reads and writes a second.
pub(crate) const DEFAULT_RATE: Rate = Rate {
    per_second: 256 << 10,
    burst: 1 << 20,
};

/// Moves bytes from `reader` to `log` until the reader ends or `stop` becomes true; then takes
/// what is there already, without waiting for more.
///
/// Not reading fast is the point: a full socket makes a flooding guest wait, while a file system
/// error (a full disk) must not, so it only loses the bytes.
pub(crate) async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut log: BoundedLog,
    rate: Rate,
    mut stop: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut budget = i64::from(rate.burst);
    let mut refilled = Instant::now();
    loop {
        let stopping = *stop.borrow();
        let count = if stopping {
            // Everything written before the stop is readable by now.
            match tokio::time::timeout(Duration::from_millis(1), reader.read(&mut buffer)).await {
                Ok(Ok(count)) => count,
                Ok(Err(_)) | Err(_) => return,
            }
        } else {
            tokio::select! {
                biased;
                changed = stop.changed() => match changed {
                    Ok(()) => continue,
                    // Nobody is left to stop us or to read the log's end.
                    Err(_) => return,
                },
                read = reader.read(&mut buffer) => match read {
                    Ok(count) => count,
                    Err(_) => return,
                },
            }
        };
        if count == 0 {
            return;
        }
        let _ = log.append(&buffer[..count]);
        budget -= i64::try_from(count).unwrap_or(i64::MAX);
        if stopping {
            // What a dead writer left in a socket or pipe is bounded by the kernel, but a live
            // one could keep us here.
            if budget < -(4 << 20) {
                return;
            }
            continue;
        }
        let earned =
            refilled.elapsed().as_millis().min(60_000) as i64 * i64::from(rate.per_second) / 1000;
        if earned > 0 {
            refilled = Instant::now();
            budget = budget.saturating_add(earned).min(i64::from(rate.burst));
        }
        if budget < 0 {
            let millis = budget.unsigned_abs() * 1000 / u64::from(rate.per_second.max(1)) + 1;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(millis)) => {}
                _ = stop.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use tokio::io::AsyncWriteExt;

    fn directory() -> (tempfile::TempDir, std::os::fd::OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = banger_host::files::open_directory(directory.path()).unwrap();
        (directory, fd)
    }

    #[test]
    fn stays_under_the_cap_and_keeps_whole_last_lines() {
        let (path, fd) = directory();
        let mut log = BoundedLog::open(fd.as_fd(), "log", 1000, false).unwrap();
        for number in 0..500 {
            log.append(format!("line {number:04}\n").as_bytes())
                .unwrap();
            let text = std::fs::read_to_string(path.path().join("log")).unwrap();
            assert!(text.len() <= 1000);
            assert!(text.starts_with("line ") && text.ends_with(&format!("line {number:04}\n")));
        }
        // Opened again it goes on; with truncation it starts anew.
        let before = std::fs::metadata(path.path().join("log")).unwrap().len();
        let mut log = BoundedLog::open(fd.as_fd(), "log", 1000, false).unwrap();
        log.append(b"more\n").unwrap();
        assert_eq!(
            std::fs::metadata(path.path().join("log")).unwrap().len(),
            before + 5
        );
        BoundedLog::open(fd.as_fd(), "log", 1000, true)
            .unwrap()
            .append(&[b'x'; 5000])
            .unwrap();
        assert_eq!(read_tail(fd.as_fd(), "log", 10_000).unwrap().len(), 1000);
        assert_eq!(read_tail(fd.as_fd(), "log", 3).unwrap(), b"xxx");
    }

    #[test]
    fn a_full_file_system_loses_bytes_and_nothing_else() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

        let file = memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut log = BoundedLog {
            file: File::from(file),
            length: 0,
            cap: 1000,
        };
        let line = format!("{}\n", "x".repeat(99));
        log.append(line.repeat(6).as_bytes()).unwrap();
        // From here on the file cannot grow, as on a full disk, once shortened not even to its
        // old length.
        fcntl_add_seals(&log.file, SealFlags::GROW).unwrap();
        for _ in 0..3 {
            log.append(line.repeat(5).as_bytes()).unwrap_err();
            assert_eq!(log.length, log.file.metadata().unwrap().len());
        }
        ftruncate(&log.file, 0).unwrap();
    }

    #[test]
    fn a_planted_file_is_refused() {
        let (path, fd) = directory();
        let outside = path.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        std::os::unix::fs::symlink(&outside, path.path().join("link")).unwrap();
        std::fs::hard_link(&outside, path.path().join("second-name")).unwrap();
        std::fs::create_dir(path.path().join("dir")).unwrap();
        let status = std::process::Command::new("mkfifo")
            .arg(path.path().join("fifo"))
            .status();
        assert!(status.unwrap().success());
        for name in ["link", "second-name", "dir", "fifo"] {
            assert!(
                BoundedLog::open(fd.as_fd(), name, 1000, true).is_err(),
                "{name}"
            );
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_flood_is_slowed_down_and_its_end_kept() {
        let (path, fd) = directory();
        let log = BoundedLog::open(fd.as_fd(), "log", 64 << 10, true).unwrap();
        let (mut writer, reader) = tokio::net::UnixStream::pair().unwrap();
        let (stop, stopped) = watch::channel(false);
        let rate = Rate {
            per_second: 64 << 10,
            burst: 128 << 10,
        };
        let pumping = tokio::spawn(pump(reader, log, rate, stopped));
        let mut written = 0;
        let chunk = [b'y'; 4096];
        let flood = async {
            loop {
                writer.write_all(&chunk).await.unwrap();
                written += chunk.len();
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_millis(500), flood)
                .await
                .is_err()
        );
        // Burst, a second's worth at most, and what the socket and one buffer hold.
        assert!(
            written < (128 << 10) + (64 << 10) + (512 << 10),
            "{written}"
        );
        stop.send(true).unwrap();
        pumping.await.unwrap();
        let text = std::fs::read(path.path().join("log")).unwrap();
        assert!(
            text.len() <= 64 << 10 && text.len() > 16 << 10,
            "{}",
            text.len()
        );
    }

    #[tokio::test]
    async fn the_last_words_are_taken_after_the_stop() {
        let (_path, fd) = directory();
        let log = BoundedLog::open(fd.as_fd(), "log", 1000, true).unwrap();
        let (mut writer, reader) = tokio::net::UnixStream::pair().unwrap();
        let (stop, stopped) = watch::channel(false);
        writer.write_all(b"last words").await.unwrap();
        stop.send(true).unwrap();
        pump(reader, log, DEFAULT_RATE, stopped).await;
        assert_eq!(read_tail(fd.as_fd(), "log", 100).unwrap(), b"last words");
    }
}
