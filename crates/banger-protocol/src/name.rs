//! Checked names. Unchecked text reaches no file, command line or rule: whoever needs a name asks
//! for one of these types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not {what}: {rule}")]
pub struct NameError {
    pub text: String,
    pub what: &'static str,
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $pattern:tt, $max:tt, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = $pattern, max_length = $max)]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if text.len() <= $max && check(text) {
                    Ok($type(text.to_owned()))
                } else {
                    Err(NameError {
                        // An error must not carry a megabyte of someone's input.
                        text: text.chars().take(80).collect(),
                        what: $what,
                        rule: $rule,
                    })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A VM's name: one DNS label (RFC 1123), since it becomes host name and DNS name.
    VmName,
    "a VM name",
    "use 1 to 63 of a-z, 0-9 and '-', not '-' at either end",
    "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    63,
    |text| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    }
);

name!(
    /// An image's local name.
    ImageName,
    "an image name",
    "use 1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
    "^[a-z0-9][a-z0-9._-]{0,127}$",
    128,
    |text| {
        text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    }
);

name!(
    /// A kernel's local name, which is also its directory.
    KernelName,
    "a kernel name",
    "use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit",
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    64,
    |text| {
        text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    }
);

name!(
    /// A VM's id: 12 lower-case hexadecimal digits, random, never reused.
    VmId,
    "a VM id",
    "use 12 of 0-9 and a-f",
    "^[0-9a-f]{12}$",
    12,
    |text| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

name!(
    /// An operation's id: 12 lower-case hexadecimal digits.
    OperationId,
    "an operation id",
    "use 12 of 0-9 and a-f",
    "^[0-9a-f]{12}$",
    12,
    |text| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_are_dns_labels() {
        let longest = "a".repeat(63);
        for good in ["a", "web-1", "0", longest.as_str()] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "ä",
            "a b",
            "../x",
            "a\0",
            too_long.as_str(),
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn image_and_kernel_names_cannot_leave_their_directory() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\0", "-x", "a b"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<KernelName>().is_err(), "{bad:?}");
        }
        assert!("debian-bookworm".parse::<ImageName>().is_ok());
        assert!("generic-6.12".parse::<KernelName>().is_ok());
        assert!("Debian".parse::<ImageName>().is_err());
    }

    #[test]
    fn json_is_checked_too() {
        assert!(serde_json::from_str::<VmName>("\"UPPER\"").is_err());
        let name: VmName = serde_json::from_str("\"calm-otter\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"calm-otter\"");
    }

    #[test]
    fn an_error_does_not_carry_all_of_a_long_input() {
        let error = "x".repeat(1 << 20).parse::<VmName>().unwrap_err();
        assert_eq!(error.text.len(), 80);
    }
}
