//! Our stdin, read in a thread of its own: files cannot be polled, and making a terminal
//! non-blocking would do so for the shell too.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Chunks read ahead: few, because what is read when the process has ended is lost to whoever reads
/// the same stdin next.
const CHUNKS: usize = 1;

/// Reads until the end; the channel closes there.
pub fn read(mut file: File) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let chunk = Bytes::copy_from_slice(&buffer[..count]);
                    if sender.blocking_send(chunk).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&file, PollFlags::IN);
                }
                // A terminal that went away, or a directory as stdin: nothing more comes.
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Waits for a file that somebody else made non-blocking.
pub fn wait(file: &File, flags: PollFlags) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), flags)], None);
}
