//! A process in a VM, as the frames of exec show it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use banger_protocol::exec::{Decoder, Direction, ExitStatus, Frame};
use bytes::Bytes;

/// The guest's end of an upgraded connection.
pub struct Process {
    stream: UnixStream,
    decoder: Decoder,
}

impl Process {
    pub fn new(stream: UnixStream) -> Process {
        Process {
            stream,
            decoder: Decoder::new(Direction::ClientToGuest),
        }
    }

    pub fn send(&mut self, frame: Frame) {
        // A client that left hears nothing more.
        let _ = self.stream.write_all(&frame.to_bytes());
    }

    pub fn stdout(&mut self, bytes: &[u8]) {
        self.send(Frame::Stdout(Bytes::copy_from_slice(bytes)));
    }

    pub fn stderr(&mut self, bytes: &[u8]) {
        self.send(Frame::Stderr(Bytes::copy_from_slice(bytes)));
    }

    pub fn exit(mut self, status: ExitStatus) {
        self.send(Frame::Exit(status));
    }

    /// The client's next frame; `None` where it went away.
    pub fn next(&mut self) -> Option<Frame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let count = self
                .stream
                .read(&mut buffer)
                .ok()
                .filter(|count| *count > 0)?;
            self.decoder.push(Bytes::copy_from_slice(&buffer[..count]));
        }
    }
}
