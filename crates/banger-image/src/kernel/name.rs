//! The checked name of a stored kernel. It is a file name too, so nothing else may reach a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::KernelError;

/// Longest name.
const MAX_LEN: usize = 64;

/// 1 to 64 letters, digits, `.`, `-`, `_`, not beginning with `.` or `-`.
///
/// A leading dot would collide with the store's own `.staging`, a leading dash reads as an option.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelName(String);

impl KernelName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelName {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let refuse = |reason| {
            Err(KernelError::InvalidName {
                // Bounded, since it goes into a message.
                name: text.chars().take(MAX_LEN + 1).collect(),
                reason,
            })
        };
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_LEN {
            return refuse("it is longer than 64 bytes");
        }
        if text.starts_with(['.', '-']) {
            return refuse("it begins with '.' or '-'");
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        {
            return refuse("it has other characters than letters, digits, '.', '-' and '_'");
        }
        Ok(KernelName(text.to_owned()))
    }
}

impl TryFrom<String> for KernelName {
    type Error = KernelError;
    fn try_from(text: String) -> Result<Self, KernelError> {
        text.parse()
    }
}

impl From<KernelName> for String {
    fn from(name: KernelName) -> String {
        name.0
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "debian-6.1-cloud", "X_1..2", "_", &"k".repeat(64)] {
            assert_eq!(good.parse::<KernelName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".staging",
            "-f",
            "a/b",
            "a b",
            "a\0",
            "é",
            &"k".repeat(65),
        ] {
            assert!(bad.parse::<KernelName>().is_err(), "{bad:?}");
        }
    }
}
