//! Byte strings that survive JSON.
//!
//! Arguments, environment values and file names on Linux are bytes. In JSON a [`ByteString`] is a
//! string where it is UTF-8 and `{"base64": "…"}` where it is not.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes that are usually, but not necessarily, UTF-8 text.
#[derive(
    Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "Wire", into = "Wire")]
#[schema(value_type = Wire)]
pub struct ByteString(pub Vec<u8>);

/// A byte string in JSON: a string, or base64 where the bytes are not UTF-8.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ByteString)]
pub enum Wire {
    Text(String),
    Encoded(Encoded),
}

/// Bytes that are not UTF-8.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Encoded {
    /// Standard alphabet, padded.
    base64: String,
}

impl ByteString {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// For people: invalid UTF-8 becomes U+FFFD.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl TryFrom<Wire> for ByteString {
    type Error = base64::DecodeError;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        Ok(ByteString(match wire {
            Wire::Text(text) => text.into_bytes(),
            Wire::Encoded(Encoded { base64 }) => STANDARD.decode(base64)?,
        }))
    }
}

impl From<ByteString> for Wire {
    fn from(bytes: ByteString) -> Self {
        match String::from_utf8(bytes.0) {
            Ok(text) => Wire::Text(text),
            Err(error) => Wire::Encoded(Encoded {
                base64: STANDARD.encode(error.as_bytes()),
            }),
        }
    }
}

impl From<&str> for ByteString {
    fn from(text: &str) -> Self {
        ByteString(text.as_bytes().to_vec())
    }
}

impl From<String> for ByteString {
    fn from(text: String) -> Self {
        ByteString(text.into_bytes())
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(bytes: Vec<u8>) -> Self {
        ByteString(bytes)
    }
}

impl From<OsString> for ByteString {
    fn from(text: OsString) -> Self {
        ByteString(text.into_vec())
    }
}

impl From<ByteString> for OsString {
    fn from(bytes: ByteString) -> Self {
        OsString::from_vec(bytes.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_base64() {
        let json = |bytes: &[u8]| serde_json::to_string(&ByteString(bytes.to_vec())).unwrap();
        assert_eq!(json(b"echo"), r#""echo""#);
        assert_eq!(json(b"\xff\x00"), r#"{"base64":"/wA="}"#);
    }

    #[test]
    fn bad_base64_is_an_error() {
        assert!(serde_json::from_str::<ByteString>(r#"{"base64":"%"}"#).is_err());
        assert!(serde_json::from_str::<ByteString>(r#"{"base64":"","x":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(bytes: Vec<u8>) {
            let json = serde_json::to_vec(&ByteString(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_slice::<ByteString>(&json).unwrap().0, bytes);
        }
    }
}
