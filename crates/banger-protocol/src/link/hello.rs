//! The handshake's two frames, and how they are found among stale bytes.

use bytes::{Buf as _, BytesMut};

use super::frame::{END, HEADER, Kind, fields, header};
use super::{MIN_WINDOW, Violation};

/// What makes one connection's handshake unmistakable: bytes which a guest wrote before it cannot
/// contain it.
pub type Nonce = [u8; 16];

const MAGIC: usize = 8;
const HELLO_MAGIC: [u8; MAGIC] = *b"\xbaGRhello";
const ACK_MAGIC: [u8; MAGIC] = *b"\xbaGRack\r\n";

/// The host's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub nonce: Nonce,
    /// Generations the host speaks, both included.
    pub lowest: u16,
    pub highest: u16,
    /// Credit the agent has at first on each stream.
    pub window: u32,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    pub nonce: Nonce,
    /// Generation spoken from here on: the highest both know, or the agent's own where there is
    /// none.
    pub generation: u16,
    /// Credit the host has at first on each stream.
    pub window: u32,
    /// Random, made when the agent started: tells a rebooted guest from the same one.
    pub boot_id: [u8; 16],
}

impl Hello {
    pub(super) const LENGTH: usize = MAGIC + 16 + 2 + 2 + 4;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&header(Kind::Hello, 0, Self::LENGTH));
        out.extend_from_slice(&HELLO_MAGIC);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.lowest.to_le_bytes());
        out.extend_from_slice(&self.highest.to_le_bytes());
        out.extend_from_slice(&self.window.to_le_bytes());
    }

    /// `payload` has at least [`Self::LENGTH`] bytes.
    pub(super) fn decode(mut payload: &[u8]) -> Result<Hello, Violation> {
        magic(&mut payload, HELLO_MAGIC)?;
        let mut nonce = Nonce::default();
        payload.copy_to_slice(&mut nonce);
        Ok(Hello {
            nonce,
            lowest: payload.get_u16_le(),
            highest: payload.get_u16_le(),
            window: window(payload.get_u32_le())?,
        })
    }
}

impl HelloAck {
    pub(super) const LENGTH: usize = MAGIC + 16 + 2 + 2 + 4 + 16;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&header(Kind::HelloAck, 0, Self::LENGTH));
        out.extend_from_slice(&ACK_MAGIC);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.window.to_le_bytes());
        out.extend_from_slice(&self.boot_id);
    }

    /// `payload` has at least [`Self::LENGTH`] bytes.
    pub(super) fn decode(mut payload: &[u8]) -> Result<HelloAck, Violation> {
        magic(&mut payload, ACK_MAGIC)?;
        let mut nonce = Nonce::default();
        payload.copy_to_slice(&mut nonce);
        let generation = payload.get_u16_le();
        payload.advance(2);
        let window = window(payload.get_u32_le())?;
        let mut boot_id = [0; 16];
        payload.copy_to_slice(&mut boot_id);
        Ok(HelloAck {
            nonce,
            generation,
            window,
            boot_id,
        })
    }
}

fn magic(payload: &mut &[u8], expected: [u8; MAGIC]) -> Result<(), Violation> {
    match payload.split_first_chunk::<MAGIC>() {
        Some((found, rest)) if *found == expected => {
            *payload = rest;
            Ok(())
        }
        _ => Err(Violation::Magic),
    }
}

fn window(bytes: u32) -> Result<u32, Violation> {
    if bytes < MIN_WINDOW {
        return Err(Violation::Window(bytes));
    }
    Ok(bytes)
}

/// Drops bytes up to and with the next hello; `None` once it needs more bytes. What it keeps in
/// `input` is less than the longest hello.
pub fn scan_hello(input: &mut BytesMut) -> Option<Hello> {
    scan(input, Kind::Hello, &HELLO_MAGIC, |payload| {
        Hello::decode(payload).ok()
    })
}

/// The same for the answer to `nonce`; any other is dropped as stale.
pub fn scan_ack(input: &mut BytesMut, nonce: &Nonce) -> Option<HelloAck> {
    scan(input, Kind::HelloAck, &ACK_MAGIC, |payload| {
        HelloAck::decode(payload)
            .ok()
            .filter(|ack| ack.nonce == *nonce)
    })
}

fn scan<T>(
    input: &mut BytesMut,
    kind: Kind,
    magic: &[u8; MAGIC],
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let (shortest, longest) = kind.lengths();
    loop {
        let Some(at) = memchr::memmem::find(input, magic) else {
            // The last bytes may be a header and the beginning of the magic number.
            let keep = HEADER + MAGIC - 1;
            input.advance(input.len().saturating_sub(keep));
            return None;
        };
        if let Some(start) = at.checked_sub(HEADER)
            && let Some((head, payload)) = input[start..].split_first_chunk::<HEADER>()
            && head[0] == kind as u8
        {
            let (length, stream) = fields(head);
            let length = length as usize;
            if stream == 0 && (shortest..=longest).contains(&length) {
                let Some((&last, payload)) = payload.get(..=length).and_then(<[u8]>::split_last)
                else {
                    input.advance(start);
                    return None;
                };
                if last == END
                    && let Some(found) = parse(payload)
                {
                    input.advance(start + HEADER + length + 1);
                    return Some(found);
                }
            }
        }
        // Not one; it begins after this magic number's first byte at the earliest.
        input.advance(at + 1);
    }
}
