//! What bangerd checks of frames that it passes on.

use super::{Direction, HEADER, Kind};

/// A frame that the other end may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("exec frame of unknown kind {0:#04x}")]
    UnknownKind(u8),
    #[error("exec frame of kind {0:?} in the wrong direction")]
    Direction(Kind),
    #[error("exec frame of kind {kind:?} with {length} bytes")]
    Length { kind: Kind, length: u32 },
    #[error("exec frame for unknown channel {0}")]
    Channel(u8),
    #[error("exec frame with a malformed exit status")]
    ExitStatus,
}

/// Whether a side may send a frame of this kind number and length.
pub fn check(direction: Direction, number: u8, length: u32) -> Result<Kind, FrameError> {
    let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
    if kind.direction() != direction {
        return Err(FrameError::Direction(kind));
    }
    let (shortest, longest) = kind.lengths();
    match usize::try_from(length) {
        Ok(bytes) if (shortest..=longest).contains(&bytes) => Ok(kind),
        _ => Err(FrameError::Length { kind, length }),
    }
}

/// Follows the headers in bytes that pass by, and keeps none of them.
#[derive(Debug)]
pub struct Checker {
    direction: Direction,
    header: [u8; HEADER],
    /// Bytes of the header seen.
    have: usize,
    /// Bytes of the payload to come.
    left: usize,
}

impl Checker {
    pub fn new(direction: Direction) -> Self {
        Checker {
            direction,
            header: [0; HEADER],
            have: 0,
            left: 0,
        }
    }

    /// Checks the next bytes; after an error none of them may be passed on.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let count = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == HEADER {
                let [kind, length @ ..] = self.header;
                let length = u32::from_le_bytes(length);
                check(self.direction, kind, length)?;
                self.have = 0;
                self.left = length as usize;
            }
        }
        Ok(())
    }

    /// Whether all frames so far are whole, so that one of our own may be put between.
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_lengths_and_directions_are_checked() {
        use Direction::{ClientToGuest, GuestToClient};
        let cases: &[(Direction, u8, u32, Result<Kind, FrameError>)] = &[
            (ClientToGuest, 0x01, 0, Ok(Kind::Stdin)),
            (
                ClientToGuest,
                0x01,
                super::super::MAX_PAYLOAD as u32,
                Ok(Kind::Stdin),
            ),
            (
                ClientToGuest,
                0x01,
                u32::MAX,
                Err(FrameError::Length {
                    kind: Kind::Stdin,
                    length: u32::MAX,
                }),
            ),
            (ClientToGuest, 0x03, 4, Ok(Kind::Resize)),
            (
                ClientToGuest,
                0x03,
                5,
                Err(FrameError::Length {
                    kind: Kind::Resize,
                    length: 5,
                }),
            ),
            (
                ClientToGuest,
                0x82,
                1,
                Err(FrameError::Direction(Kind::Stdout)),
            ),
            (
                GuestToClient,
                0x05,
                0,
                Err(FrameError::Direction(Kind::Hangup)),
            ),
            (GuestToClient, 0x82, 1, Ok(Kind::Stdout)),
            (GuestToClient, 0x7f, 1, Err(FrameError::UnknownKind(0x7f))),
        ];
        for (direction, kind, length, expected) in cases {
            assert_eq!(check(*direction, *kind, *length), *expected);
        }
    }
}
