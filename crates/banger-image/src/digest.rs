//! SHA-256 digests, written `sha256:<64 hex digits>`: what names a blob, a layer and a base.
//!
//! Limits: other algorithms of the OCI specification are refused by name; no registry in use
//! hands them out.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest this program can check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("digest algorithm {0:?} is not supported, only sha256 is")]
    Algorithm(String),
    #[error("{0:?} is not a digest of the form sha256:<64 lower-case hex digits>")]
    Malformed(String),
}

impl Digest {
    /// Digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Digest of all that a reader still gives, and how many bytes that was.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Digest, u64)> {
        let mut running = RunningDigest::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((running.digest(), running.bytes())),
                Ok(count) => running.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits: the name of a file in a blob directory.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// From 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Digest, DigestError> {
        let malformed = || DigestError::Malformed(shortened(hex));
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(malformed());
            };
            *byte = high << 4 | low;
        }
        Ok(Digest(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// An error must not carry a megabyte of someone's input.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => {
                Digest::from_hex(hex).map_err(|_| DigestError::Malformed(shortened(text)))
            }
            Some((algorithm, _)) => Err(DigestError::Algorithm(shortened(algorithm))),
            None => Err(DigestError::Malformed(shortened(text))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest that grows with the bytes seen so far.
#[derive(Clone, Default)]
pub struct RunningDigest {
    hash: Sha256,
    bytes: u64,
}

impl RunningDigest {
    pub fn new() -> RunningDigest {
        RunningDigest::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were seen.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn digest(&self) -> Digest {
        Digest(self.hash.clone().finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_bytes_agree() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        let mut running = RunningDigest::new();
        running.update(b"ab");
        running.update(b"c");
        assert_eq!((running.digest(), running.bytes()), (Digest::of(b"abc"), 3));
        assert_eq!(
            Digest::of_reader(&b"abc"[..]).unwrap(),
            (Digest::of(b"abc"), 3)
        );
    }

    #[test]
    fn what_is_not_a_sha256_digest_is_refused() {
        for bad in [
            "",
            "sha256:",
            "sha256",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &EMPTY.replace('e', "g"),
            "sha256:../../../../../../../../../../../../../../../../../../../../../x",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!(
            "sha512:00".parse::<Digest>(),
            Err(DigestError::Algorithm("sha512".into()))
        );
    }
}
