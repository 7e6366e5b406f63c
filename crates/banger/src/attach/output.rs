//! Our stdout and stderr, each written by a thread of its own, so that whoever reads one slowly
//! holds up only that one.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc as blocking;

use banger_protocol::exec::Channel;
use bytes::Bytes;
use rustix::event::PollFlags;
use tokio::sync::mpsc;

use super::input::wait;

/// What a writer tells.
#[derive(Debug)]
pub enum Told {
    /// So many bytes are written.
    Consumed(Channel, usize),
    /// Nothing more can be written.
    Broken(Channel, io::Error),
    /// All that was given is written, and no more will come.
    Finished,
}

/// One output. Its thread begins with the first bytes.
pub struct Output {
    channel: Channel,
    state: State,
}

enum State {
    Idle(File, mpsc::UnboundedSender<Told>),
    Writing(blocking::Sender<Bytes>),
    Closed,
}

impl Output {
    pub fn new(channel: Channel, file: File, told: mpsc::UnboundedSender<Told>) -> Self {
        Output {
            channel,
            state: State::Idle(file, told),
        }
    }

    /// Gives bytes to the writer. The sender's credit bounds how many wait.
    pub fn give(&mut self, bytes: Bytes) {
        if let State::Idle(..) = self.state
            && let State::Idle(file, told) = std::mem::replace(&mut self.state, State::Closed)
        {
            let (sender, receiver) = blocking::channel();
            let channel = self.channel;
            std::thread::spawn(move || write(channel, file, &receiver, &told));
            self.state = State::Writing(sender);
        }
        if let State::Writing(sender) = &self.state {
            // A writer that broke has told so.
            let _ = sender.send(bytes);
        }
    }

    /// Lets the writer finish. False where it never began, so that nothing is to be waited for.
    pub fn close(&mut self) -> bool {
        matches!(
            std::mem::replace(&mut self.state, State::Closed),
            State::Writing(_)
        )
    }
}

fn write(
    channel: Channel,
    mut file: File,
    given: &blocking::Receiver<Bytes>,
    told: &mpsc::UnboundedSender<Told>,
) {
    for bytes in given {
        if let Err(error) = write_all(&mut file, &bytes) {
            let _ = told.send(Told::Broken(channel, error));
            // Taken and thrown away from here on, so that nobody waits for credit.
            break;
        }
        let _ = told.send(Told::Consumed(channel, bytes.len()));
    }
    for bytes in given {
        let _ = told.send(Told::Consumed(channel, bytes.len()));
    }
    let _ = told.send(Told::Finished);
}

fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(file, PollFlags::OUT);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
