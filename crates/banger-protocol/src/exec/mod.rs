//! Frames of exec: a process's standard streams, and what happens to it, on one byte stream.
//!
//! The same frames are spoken on the upgraded connection between client and bangerd and on the
//! agent's stream; bangerd checks each ([`Checker`]) and passes the bytes on.
//!
//! ```text
//! byte 0     kind; below 0x80 from the client, from 0x80 on from the guest
//! bytes 1-4  length of the payload, little endian
//! ```
//!
//! stdin, stdout and stderr each have credit from end to end ([`INITIAL_CREDIT`] at first, and
//! again after a re-join): the receiver gives back what it has consumed. So whoever reads stderr
//! slowly stops neither stdout nor a signal. A process which is not joined has its output kept in
//! a bounded place; what did not fit is told by [`Frame::Lost`].
//!
//! Kinds and fields are only ever added, by later generations (`schema/agent-1.json`).

mod check;
mod credit;
mod decode;
mod status;

pub use check::{Checker, FrameError, check};
pub use credit::{CreditError, ReceiveCredit, SendCredit};
pub use decode::Decoder;
pub use status::{ExitStatus, StartFailure, StartFailureKind};

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::link;

pub const HEADER: usize = 5;

/// Longest payload: with both headers, exactly one frame of the guest link.
pub const MAX_PAYLOAD: usize = link::MAX_PAYLOAD - HEADER;

/// Bytes which stdin, stdout and stderr may each send before the first credit.
pub const INITIAL_CREDIT: u32 = 256 * 1024;

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ClientToGuest,
    GuestToClient,
}

/// An output of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    Stdout = 1,
    Stderr = 2,
}

impl Channel {
    pub fn from_number(number: u8) -> Option<Channel> {
        match number {
            1 => Some(Channel::Stdout),
            2 => Some(Channel::Stderr),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Stdin = 0x01,
    StdinEof = 0x02,
    Resize = 0x03,
    Signal = 0x04,
    Hangup = 0x05,
    Credit = 0x06,
    Started = 0x81,
    Stdout = 0x82,
    Stderr = 0x83,
    Exit = 0x84,
    Lost = 0x85,
    StdinCredit = 0x86,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Stdin,
        Kind::StdinEof,
        Kind::Resize,
        Kind::Signal,
        Kind::Hangup,
        Kind::Credit,
        Kind::Started,
        Kind::Stdout,
        Kind::Stderr,
        Kind::Exit,
        Kind::Lost,
        Kind::StdinCredit,
    ];

    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    pub fn direction(self) -> Direction {
        if (self as u8) < 0x80 {
            Direction::ClientToGuest
        } else {
            Direction::GuestToClient
        }
    }

    /// Shortest and longest payload.
    pub fn lengths(self) -> (usize, usize) {
        match self {
            Kind::Stdin | Kind::Stdout | Kind::Stderr => (0, MAX_PAYLOAD),
            Kind::StdinEof | Kind::Hangup => (0, 0),
            Kind::Resize | Kind::Signal | Kind::StdinCredit => (4, 4),
            Kind::Credit => (5, 5),
            Kind::Started => (12, 12),
            Kind::Exit => (2, 8 * 1024),
            Kind::Lost => (9, 9),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Stdin(Bytes),
    /// No more stdin follows. On a terminal it is the end-of-file character.
    StdinEof,
    Resize {
        rows: u16,
        columns: u16,
    },
    /// For the process group.
    Signal(u32),
    /// The client is gone for good: end what it ran.
    Hangup,
    /// The client consumed this much of an output.
    Credit {
        channel: Channel,
        bytes: u32,
    },
    /// First frame of the guest, unless the process could not be started.
    Started {
        exec: u64,
        pid: u32,
    },
    Stdout(Bytes),
    Stderr(Bytes),
    /// Last frame of the guest; all output came before it.
    Exit(ExitStatus),
    /// Output that was dropped while nobody was joined, before what follows.
    Lost {
        channel: Channel,
        bytes: u64,
    },
    /// The guest consumed this much of stdin.
    StdinCredit(u32),
}

/// The header of a frame whose payload has `length` bytes, at most [`MAX_PAYLOAD`].
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD);
    let [l0, l1, l2, l3, ..] = length.to_le_bytes();
    [kind as u8, l0, l1, l2, l3]
}

impl Frame {
    pub fn kind(&self) -> Kind {
        match self {
            Frame::Stdin(_) => Kind::Stdin,
            Frame::StdinEof => Kind::StdinEof,
            Frame::Resize { .. } => Kind::Resize,
            Frame::Signal(_) => Kind::Signal,
            Frame::Hangup => Kind::Hangup,
            Frame::Credit { .. } => Kind::Credit,
            Frame::Started { .. } => Kind::Started,
            Frame::Stdout(_) => Kind::Stdout,
            Frame::Stderr(_) => Kind::Stderr,
            Frame::Exit(_) => Kind::Exit,
            Frame::Lost { .. } => Kind::Lost,
            Frame::StdinCredit(_) => Kind::StdinCredit,
        }
    }

    /// Appends the frame; a payload must be within [`MAX_PAYLOAD`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&header(self.kind(), 0));
        match self {
            Frame::Stdin(bytes) | Frame::Stdout(bytes) | Frame::Stderr(bytes) => {
                out.extend_from_slice(bytes);
            }
            Frame::StdinEof | Frame::Hangup => {}
            Frame::Resize { rows, columns } => {
                out.put_u16_le(*rows);
                out.put_u16_le(*columns);
            }
            Frame::Signal(number) | Frame::StdinCredit(number) => out.put_u32_le(*number),
            Frame::Credit { channel, bytes } => {
                out.put_u8(*channel as u8);
                out.put_u32_le(*bytes);
            }
            Frame::Started { exec, pid } => {
                out.put_u64_le(*exec);
                out.put_u32_le(*pid);
            }
            Frame::Exit(status) => out.extend_from_slice(&status.to_json()),
            Frame::Lost { channel, bytes } => {
                out.put_u8(*channel as u8);
                out.put_u64_le(*bytes);
            }
        }
        let length = out.len() - start - HEADER;
        out[start..start + HEADER].copy_from_slice(&header(self.kind(), length));
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// The frame of a payload whose kind and length were checked.
    fn parse(kind: Kind, mut payload: Bytes) -> Result<Frame, FrameError> {
        let channel = |payload: &mut Bytes| {
            let number = payload.get_u8();
            Channel::from_number(number).ok_or(FrameError::Channel(number))
        };
        Ok(match kind {
            Kind::Stdin => Frame::Stdin(payload),
            Kind::StdinEof => Frame::StdinEof,
            Kind::Resize => Frame::Resize {
                rows: payload.get_u16_le(),
                columns: payload.get_u16_le(),
            },
            Kind::Signal => Frame::Signal(payload.get_u32_le()),
            Kind::Hangup => Frame::Hangup,
            Kind::Credit => Frame::Credit {
                channel: channel(&mut payload)?,
                bytes: payload.get_u32_le(),
            },
            Kind::Started => Frame::Started {
                exec: payload.get_u64_le(),
                pid: payload.get_u32_le(),
            },
            Kind::Stdout => Frame::Stdout(payload),
            Kind::Stderr => Frame::Stderr(payload),
            Kind::Exit => {
                Frame::Exit(serde_json::from_slice(&payload).map_err(|_| FrameError::ExitStatus)?)
            }
            Kind::Lost => Frame::Lost {
                channel: channel(&mut payload)?,
                bytes: payload.get_u64_le(),
            },
            Kind::StdinCredit => Frame::StdinCredit(payload.get_u32_le()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn any_frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let channel = || prop_oneof![Just(Channel::Stdout), Just(Channel::Stderr)];
        prop_oneof![
            bytes().prop_map(Frame::Stdin),
            Just(Frame::StdinEof),
            any::<(u16, u16)>().prop_map(|(rows, columns)| Frame::Resize { rows, columns }),
            any::<u32>().prop_map(Frame::Signal),
            Just(Frame::Hangup),
            (channel(), any::<u32>()).prop_map(|(channel, bytes)| Frame::Credit { channel, bytes }),
            any::<(u64, u32)>().prop_map(|(exec, pid)| Frame::Started { exec, pid }),
            bytes().prop_map(Frame::Stdout),
            bytes().prop_map(Frame::Stderr),
            any::<i32>().prop_map(|code| Frame::Exit(ExitStatus::Code(code))),
            any::<i32>().prop_map(|signal| Frame::Exit(ExitStatus::Signal(signal))),
            any::<String>().prop_map(|message| Frame::Exit(ExitStatus::Failed(StartFailure::new(
                StartFailureKind::BadUser,
                message
            )))),
            (channel(), any::<u64>()).prop_map(|(channel, bytes)| Frame::Lost { channel, bytes }),
            any::<u32>().prop_map(Frame::StdinCredit),
        ]
    }

    #[test]
    fn a_full_frame_is_one_frame_of_the_link() {
        let full = Frame::Stdout(Bytes::from(vec![0; MAX_PAYLOAD])).to_bytes();
        assert_eq!(full.len(), link::MAX_PAYLOAD);
    }

    proptest! {
        /// However the bytes are cut, the same frames come out, and the checker agrees.
        #[test]
        fn any_split_decodes_the_same(
            frames in proptest::collection::vec(any_frame(), 0..12),
            cuts in proptest::collection::vec(1usize..40, 1..40),
        ) {
            for direction in [Direction::ClientToGuest, Direction::GuestToClient] {
                let frames: Vec<_> = frames
                    .iter()
                    .filter(|frame| frame.kind().direction() == direction)
                    .cloned()
                    .collect();
                let mut bytes = Bytes::from(frames.iter().flat_map(Frame::to_bytes).collect::<Vec<_>>());
                let mut decoder = Decoder::new(direction);
                let mut checker = Checker::new(direction);
                let mut decoded = Vec::new();
                let mut sizes = cuts.iter().cycle();
                while !bytes.is_empty() {
                    let size = *sizes.next().unwrap();
                    let part = bytes.split_to(size.min(bytes.len()));
                    prop_assert_eq!(checker.feed(&part), Ok(()));
                    decoder.push(part);
                    while let Some(frame) = decoder.next_frame().unwrap() {
                        decoded.push(frame);
                    }
                }
                prop_assert!(checker.at_boundary() && decoder.at_boundary());
                prop_assert_eq!(decoded, frames);
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(Direction::GuestToClient);
            decoder.push(Bytes::from(bytes.clone()));
            let failed = loop {
                match decoder.next_frame() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            let checked = Checker::new(Direction::GuestToClient).feed(&bytes);
            // The checker looks at headers only, so it never refuses what decodes.
            prop_assert!(checked.is_ok() || failed);
        }
    }
}
