//! Numbers as archives write them. Pure.

use super::Time;
use super::error::{TarError, printable};

/// A header field: octal digits between blanks, or GNU's base-256 with the top bit set.
pub(super) fn header(field: &'static str, bytes: &[u8]) -> Result<i64, TarError> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base256(field, bytes),
        _ => octal(field, bytes),
    }
}

/// A header field that must not be negative.
pub(super) fn size(field: &'static str, bytes: &[u8]) -> Result<u64, TarError> {
    let value = header(field, bytes)?;
    u64::try_from(value).map_err(|_| out_of_range(field, value))
}

/// A user or group id. All ones is what system calls read as "no id".
pub(super) fn owner(field: &'static str, value: i64) -> Result<u32, TarError> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(out_of_range(field, value)),
    }
}

fn out_of_range(field: &'static str, value: impl ToString) -> TarError {
    TarError::OutOfRange {
        field,
        value: value.to_string(),
    }
}

fn octal(field: &'static str, bytes: &[u8]) -> Result<i64, TarError> {
    let digits = bytes.trim_ascii_start();
    let end = digits
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return Err(TarError::NotANumber { field });
    }
    // Twelve octal digits are 36 bits: no overflow is possible.
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i64::from(digit - b'0')),
        _ => Err(TarError::NotANumber { field }),
    })
}

/// Two's complement, big endian, one bit short: the top bit only marks the encoding.
fn base256(field: &'static str, bytes: &[u8]) -> Result<i64, TarError> {
    let negative = bytes.first().is_some_and(|first| first & 0x40 != 0);
    let mut value: i64 = if negative { -1 } else { 0 };
    for (index, byte) in bytes.iter().enumerate() {
        let byte = match (index, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value
            .checked_mul(256)
            .map(|high| high | i64::from(byte))
            .ok_or_else(|| out_of_range(field, "beyond 64 bits"))?;
    }
    Ok(value)
}

/// A decimal without sign, as pax records and sparse maps hold it.
pub(super) fn decimal(field: &'static str, text: &[u8]) -> Result<u64, TarError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(TarError::NotANumber { field });
    }
    text.iter()
        .try_fold(0_u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or_else(|| out_of_range(field, printable(text)))
}

/// A pax time: `[-]seconds[.fraction]`. Digits beyond nanoseconds are dropped.
pub(super) fn time(field: &'static str, text: &[u8]) -> Result<Time, TarError> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(field, parts.next().unwrap_or_default())?;
    let seconds = i64::try_from(seconds).map_err(|_| out_of_range(field, seconds))?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::NotANumber { field });
    }
    let nanoseconds = (0..9).fold(0_u32, |value, place| {
        let digit = fraction.get(place).map_or(0, |digit| digit - b'0');
        value * 10 + u32::from(digit)
    });
    Ok(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        // -1.25 is the second -2 and three quarters.
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields() {
        let mut wide = [0xff_u8; 12];
        let two_to_the_64 = [0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let uid = [0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0];
        for (bytes, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  12 \0  ", Some(0o12)),
            (b"12345670", Some(0o12345670)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (&uid, Some(4_000_000_000)),
            (&wide, Some(-1)),
            (&two_to_the_64, None),
            (b"12x", None),
            (b"-1\0", None),
            (b"1\x002", None),
            (b"8", None),
        ] {
            assert_eq!(header("size", bytes).ok(), expected, "{bytes:?}");
        }
        assert!(size("size", &wide).is_err());
        wide[1] = 0xfe;
        assert!(header("size", &wide).is_err(), "below -2^63");
        assert_eq!(owner("uid", 4_294_967_294), Ok(4_294_967_294));
        assert!(owner("uid", 4_294_967_295).is_err());
        assert!(owner("uid", -1).is_err());
    }

    #[test]
    fn times() {
        let at = |seconds, nanoseconds| {
            Some(Time {
                seconds,
                nanoseconds,
            })
        };
        for (text, expected) in [
            ("0", at(0, 0)),
            ("1700000000.25", at(1_700_000_000, 250_000_000)),
            ("1.", at(1, 0)),
            ("4102444800.123456789123", at(4_102_444_800, 123_456_789)),
            ("-1", at(-1, 0)),
            ("-1.25", at(-2, 750_000_000)),
            ("-0.5", at(-1, 500_000_000)),
            ("9223372036854775807", at(i64::MAX, 0)),
            ("-9223372036854775807.5", at(i64::MIN, 500_000_000)),
            ("9223372036854775808", None),
            ("1e9", None),
            ("", None),
            ("-", None),
            ("1.2.3", None),
            ("1.-2", None),
        ] {
            assert_eq!(time("mtime", text.as_bytes()).ok(), expected, "{text}");
        }
    }
}
