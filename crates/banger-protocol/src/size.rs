//! Sizes as people write them.
//!
//! An integer and an optional unit K, M, G or T, in any case, with an optional `B` or `iB`. Units
//! are powers of 1024; a bare number is MiB.

use thiserror::Error;

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    #[error("{0:?} is not a size: write an integer and K, M, G or T, for instance 512M or 8GiB")]
    Syntax(String),
    #[error("{0} is too large: the most is 8 EiB")]
    TooLarge(String),
}

const MIB: u64 = 1 << 20;

/// Parses a size into bytes.
///
/// # Errors
/// [`SizeError::Syntax`] for signs, fractions, unknown units or an empty text;
/// [`SizeError::TooLarge`] past `i64::MAX` bytes.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let syntax = || SizeError::Syntax(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(syntax());
    }
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" => 20,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(syntax()),
    };
    let too_large = || SizeError::TooLarge(text.to_owned());
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(too_large)
}

/// Parses a size that must be a whole number of MiB.
///
/// # Errors
/// As [`parse`]; a size with a fraction of a MiB is rounded up.
pub fn parse_mib(text: &str) -> Result<u64, SizeError> {
    Ok(parse(text)?.div_ceil(MIB))
}

/// A size for a table: the largest unit that leaves at least one whole, one decimal below ten.
pub fn format(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    // 1024 is 2 to the 10th.
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10).min(UNITS.len() as u32 - 1);
    let tenths = rounded(10 * u128::from(bytes), 10 * unit);
    let name = UNITS[unit as usize];
    match (tenths / 10, tenths % 10) {
        (0..10, decimal @ 1..) => format!("{}.{decimal} {name}", tenths / 10),
        (0..10, 0) => format!("{} {name}", tenths / 10),
        _ => format!("{} {name}", rounded(u128::from(bytes), 10 * unit)),
    }
}

/// `value` divided by 2 to the `shift`th, to the nearest whole, halves up.
fn rounded(value: u128, shift: u32) -> u128 {
    (value + ((1 << shift) >> 1)) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512 << 20),
            ("1k", 1 << 10),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("4gb", 4 << 30),
            ("4 gIb", 4 << 30),
            (" 2T ", 2 << 40),
            ("8796093022207", 8796093022207 << 20),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "G", "-1", "+1", "1.5G", "1X", "1GiBB", "1 G 2", "٣", "1i", "1B",
        ] {
            assert!(matches!(parse(text), Err(SizeError::Syntax(_))), "{text}");
        }
        for text in ["9999999999999999999999", "8796093022208", "8388608T"] {
            assert!(matches!(parse(text), Err(SizeError::TooLarge(_))), "{text}");
        }
        assert_eq!(parse_mib("1K"), Ok(1));
    }

    #[test]
    fn tables() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (148 << 10, "148 KiB"),
            (8 << 30, "8 GiB"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
