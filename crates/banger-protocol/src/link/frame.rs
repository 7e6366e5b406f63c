//! Frames: eight bytes of header, at most [`MAX_PAYLOAD`] of payload, one byte [`END`].
//!
//! ```text
//! byte 0     kind
//! bytes 1-3  length of the payload, little endian
//! bytes 4-7  stream, little endian; 0 where the frame concerns the whole link
//! payload
//! last byte  END
//! ```
//!
//! Between frames a zero byte is a pad, and means nothing. So [`MAX_FRAME`] zeros fill up
//! whatever frame a dead peer left half sent, and hurt nobody otherwise; END tells that the frame
//! was finished by its sender, and is data rather than zeros.

use bytes::{Buf as _, Bytes, BytesMut};

use super::hello::{Hello, HelloAck};
use super::{MAX_REQUEST, ResetCode, Violation};

pub const HEADER: usize = 8;

/// Last byte of every frame but a pad.
pub const END: u8 = 0xa5;

/// The Linux driver of virtio-serial copies at most 32 KiB per write, and each write costs an
/// exit to the VMM: the largest frame is exactly one write.
pub const MAX_FRAME: usize = 32 * 1024;

pub const MAX_PAYLOAD: usize = MAX_FRAME - HEADER - 1;

/// Payloads from here on are cut out of the receive buffer; smaller ones are copied, so that an
/// unread byte does not hold a whole buffer.
const SHARE_FROM: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Pad = 0,
    Hello = 1,
    HelloAck = 2,
    Open = 3,
    Data = 4,
    Window = 5,
    Fin = 6,
    Reset = 7,
    Goodbye = 8,
}

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    HostToAgent,
    AgentToHost,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Pad,
        Kind::Hello,
        Kind::HelloAck,
        Kind::Open,
        Kind::Data,
        Kind::Window,
        Kind::Fin,
        Kind::Reset,
        Kind::Goodbye,
    ];

    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether a side may send it.
    pub fn allowed(self, direction: Direction) -> bool {
        match self {
            Kind::Hello | Kind::Open => direction == Direction::HostToAgent,
            Kind::HelloAck | Kind::Goodbye => direction == Direction::AgentToHost,
            Kind::Pad | Kind::Data | Kind::Window | Kind::Fin | Kind::Reset => true,
        }
    }

    /// Shortest and longest payload. Hellos may grow by later generations.
    pub fn lengths(self) -> (usize, usize) {
        match self {
            Kind::Pad | Kind::Fin | Kind::Goodbye => (0, 0),
            Kind::Hello => (Hello::LENGTH, 256),
            Kind::HelloAck => (HelloAck::LENGTH, 256),
            Kind::Open => (4, MAX_PAYLOAD),
            Kind::Data => (0, MAX_PAYLOAD),
            Kind::Window | Kind::Reset => (4, 4),
        }
    }

    /// Whether it concerns the link rather than one stream.
    pub fn is_link_wide(self) -> bool {
        matches!(
            self,
            Kind::Pad | Kind::Hello | Kind::HelloAck | Kind::Goodbye
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    HelloAck(HelloAck),
    /// Opens a stream. The request has `total` bytes; what is not in `part` follows as data.
    Open {
        stream: u32,
        total: u32,
        part: Bytes,
    },
    Data {
        stream: u32,
        payload: Bytes,
    },
    /// More credit for the receiver of this frame.
    Window {
        stream: u32,
        credit: u32,
    },
    /// No more data in this direction.
    Fin {
        stream: u32,
    },
    Reset {
        stream: u32,
        code: ResetCode,
    },
    /// The sender has dropped all streams and waits for a hello.
    Goodbye,
}

pub(super) fn header(kind: Kind, stream: u32, length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD);
    let [l0, l1, l2, ..] = length.to_le_bytes();
    let [s0, s1, s2, s3] = stream.to_le_bytes();
    [kind as u8, l0, l1, l2, s0, s1, s2, s3]
}

impl Frame {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_open(out);
        out.push(END);
    }

    /// All but [`END`].
    fn encode_open(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => hello.encode(out),
            Frame::HelloAck(ack) => ack.encode(out),
            Frame::Open {
                stream,
                total,
                part,
            } => {
                out.extend_from_slice(&header(Kind::Open, *stream, 4 + part.len()));
                out.extend_from_slice(&total.to_le_bytes());
                out.extend_from_slice(part);
            }
            Frame::Data { stream, payload } => {
                out.extend_from_slice(&header(Kind::Data, *stream, payload.len()));
                out.extend_from_slice(payload);
            }
            Frame::Window { stream, credit } => {
                out.extend_from_slice(&header(Kind::Window, *stream, 4));
                out.extend_from_slice(&credit.to_le_bytes());
            }
            Frame::Fin { stream } => out.extend_from_slice(&header(Kind::Fin, *stream, 0)),
            Frame::Reset { stream, code } => {
                out.extend_from_slice(&header(Kind::Reset, *stream, 4));
                out.extend_from_slice(&code.number().to_le_bytes());
            }
            Frame::Goodbye => out.extend_from_slice(&header(Kind::Goodbye, 0, 0)),
        }
    }
}

/// Takes the next frame off `input`; `None` where more bytes are needed. What the header says is
/// checked as soon as it is there, before its payload is waited for.
pub fn decode(from: Direction, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
    let pads = input.iter().take_while(|byte| **byte == 0).count();
    input.advance(pads);
    let Some(&number) = input.first() else {
        return Ok(None);
    };
    let kind = Kind::from_number(number).ok_or(Violation::UnknownKind(number))?;
    if !kind.allowed(from) {
        return Err(Violation::Direction(kind));
    }
    let Some((head, rest)) = input.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let (length, stream) = fields(head);
    let (shortest, longest) = kind.lengths();
    if (length as usize) < shortest || length as usize > longest {
        return Err(Violation::Length { kind, length });
    }
    if (stream == 0) != kind.is_link_wide() {
        return Err(Violation::Stream { kind, stream });
    }
    match rest.get(length as usize) {
        None => return Ok(None),
        Some(&END) => {}
        Some(_) => return Err(Violation::Unfinished(kind)),
    }
    input.advance(HEADER);
    let payload = take(input, length as usize);
    input.advance(1);
    build(kind, stream, payload).map(Some)
}

/// Length and stream of a header.
pub(super) fn fields(head: &[u8; HEADER]) -> (u32, u32) {
    let [_, l0, l1, l2, s0, s1, s2, s3] = *head;
    (
        u32::from_le_bytes([l0, l1, l2, 0]),
        u32::from_le_bytes([s0, s1, s2, s3]),
    )
}

fn take(input: &mut BytesMut, length: usize) -> Bytes {
    if length >= SHARE_FROM {
        return input.split_to(length).freeze();
    }
    let payload = Bytes::copy_from_slice(&input[..length]);
    input.advance(length);
    payload
}

fn build(kind: Kind, stream: u32, mut payload: Bytes) -> Result<Frame, Violation> {
    Ok(match kind {
        Kind::Hello => Frame::Hello(Hello::decode(&payload)?),
        Kind::HelloAck => Frame::HelloAck(HelloAck::decode(&payload)?),
        Kind::Open => {
            let total = payload.get_u32_le();
            if total > MAX_REQUEST || (total as usize) < payload.len() {
                return Err(Violation::Request(total));
            }
            Frame::Open {
                stream,
                total,
                part: payload,
            }
        }
        Kind::Data => Frame::Data { stream, payload },
        Kind::Window => Frame::Window {
            stream,
            credit: payload.get_u32_le(),
        },
        Kind::Fin => Frame::Fin { stream },
        Kind::Reset => Frame::Reset {
            stream,
            code: ResetCode::from_number(payload.get_u32_le()),
        },
        Kind::Goodbye => Frame::Goodbye,
        Kind::Pad => return Err(Violation::UnknownKind(0)),
    })
}
