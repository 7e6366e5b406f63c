//! Values of the configuration: how each type is written.

use std::path::PathBuf;
use std::time::Duration;

use banger_protocol::name::KernelName;
use banger_protocol::size;
use toml::Value as Toml;

/// A type a configuration key can have.
pub trait Value: Sized {
    /// What is accepted, for the documentation.
    const FORM: &'static str;
    /// # Errors
    /// Why the value is not one, for a person.
    fn parse(value: &Toml) -> Result<Self, String>;
    /// The value as TOML; `not set` where there is none.
    fn show(&self) -> String;
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn mib(mib: u64) -> Size {
        Size(mib << 20)
    }

    pub const fn gib(gib: u64) -> Size {
        Size(gib << 30)
    }

    /// Whole MiB, rounded up.
    pub const fn in_mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl Value for Size {
    const FORM: &'static str = "size such as `\"512M\"` or `\"8GiB\"`; a bare number is MiB";

    fn parse(value: &Toml) -> Result<Self, String> {
        match value {
            Toml::String(text) => size::parse(text)
                .map(Size)
                .map_err(|error| error.to_string()),
            Toml::Integer(mib) => u64::try_from(*mib)
                .ok()
                .and_then(|mib| mib.checked_mul(1 << 20))
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .map(Size)
                .ok_or_else(|| format!("{mib} is not a number of MiB")),
            other => Err(expected("a size such as \"512M\"", other)),
        }
    }

    fn show(&self) -> String {
        let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
        for (shift, unit) in units {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return format!("\"{}{unit}\"", self.0 >> shift);
            }
        }
        format!("\"{}K\"", self.0.div_ceil(1 << 10))
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How guest instructions are to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where a probe booted, else TCG.
    Auto,
    Kvm,
    Tcg,
}

macro_rules! words {
    ($type:ident, $form:literal, $($text:literal = $variant:ident),*) => {
        impl Value for $type {
            const FORM: &'static str = $form;

            fn parse(value: &Toml) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($text) => Ok($type::$variant),)*
                    Some(other) => Err(format!("{other:?} is none of {}", [$($text),*].join(", "))),
                    None => Err(expected("a string", value)),
                }
            }

            fn show(&self) -> String {
                match self { $($type::$variant => concat!("\"", $text, "\"").to_owned(),)* }
            }
        }

        impl $type {
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $text,)* }
            }
        }
    };
}

words!(
    LogLevel,
    "`\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"` or `\"trace\"`",
    "error" = Error,
    "warn" = Warn,
    "info" = Info,
    "debug" = Debug,
    "trace" = Trace
);
words!(
    AcceleratorChoice,
    "`\"auto\"`, `\"kvm\"` or `\"tcg\"`",
    "auto" = Auto,
    "kvm" = Kvm,
    "tcg" = Tcg
);

/// User ids, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    pub first: u32,
    pub last: u32,
}

impl Value for UidRange {
    const FORM: &'static str = "range `\"FIRST-LAST\"`";

    fn parse(value: &Toml) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| expected("a string", value))?;
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(UidRange {
                first: first.trim().parse().ok()?,
                last: last.trim().parse().ok()?,
            })
        });
        match range {
            // The last value is (uid_t)-1, "no change".
            Some(range)
                if 0 < range.first && range.first <= range.last && range.last < u32::MAX =>
            {
                Ok(range)
            }
            _ => Err(format!(
                "{text:?} is not a range of user ids: write FIRST-LAST, both above 0"
            )),
        }
    }

    fn show(&self) -> String {
        format!("\"{}-{}\"", self.first, self.last)
    }
}

impl Value for Duration {
    const FORM: &'static str = "duration such as `\"30s\"`, `\"5m\"` or `\"1h 30m\"`";

    fn parse(value: &Toml) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| expected("a string such as \"30s\" or \"5m\"", value))?;
        duration(text).ok_or_else(|| {
            format!(
                "{text:?} is not a duration: write numbers with ms, s, m or h, for instance 30s"
            )
        })
    }

    fn show(&self) -> String {
        let ms = self.as_millis();
        let (number, unit) = [(3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(length, _)| ms > 0 && ms.is_multiple_of(*length))
            .map_or((ms, "ms"), |(length, unit)| (ms / length, unit));
        format!("\"{number}{unit}\"")
    }
}

/// At most a year: nothing here waits longer, and deadlines stay far from overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(ms)?))?;
        rest = rest[letters..].trim_start();
    }
    (sum <= LONGEST).then_some(sum)
}

macro_rules! numbers {
    ($($type:ident),*) => {$(
        impl Value for $type {
            const FORM: &'static str = "whole number";

            fn parse(value: &Toml) -> Result<Self, String> {
                match value {
                    Toml::Integer(number) => $type::try_from(*number).map_err(|_| {
                        format!("{number} is not a whole number from 0 to {}", $type::MAX)
                    }),
                    other => Err(expected("a whole number", other)),
                }
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(u32, u64);

impl Value for String {
    const FORM: &'static str = "string";

    fn parse(value: &Toml) -> Result<Self, String> {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| expected("a string", value))
    }

    fn show(&self) -> String {
        Toml::String(self.clone()).to_string()
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "path";

    fn parse(value: &Toml) -> Result<Self, String> {
        let text = String::parse(value)?;
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{text:?} is not a path"));
        }
        Ok(PathBuf::from(text))
    }

    fn show(&self) -> String {
        Toml::String(self.display().to_string()).to_string()
    }
}

impl Value for Option<PathBuf> {
    const FORM: &'static str = "absolute path";

    fn parse(value: &Toml) -> Result<Self, String> {
        let path = PathBuf::parse(value)?;
        if path.is_absolute() {
            Ok(Some(path))
        } else {
            Err(format!("{} is not an absolute path", path.display()))
        }
    }

    fn show(&self) -> String {
        self.as_ref()
            .map_or_else(|| "not set".to_owned(), Value::show)
    }
}

impl Value for KernelName {
    const FORM: &'static str = "kernel name";

    fn parse(value: &Toml) -> Result<Self, String> {
        String::parse(value)?
            .parse()
            .map_err(|error: banger_protocol::name::NameError| error.to_string())
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// A kernel name written in the source.
pub fn known_kernel(name: &'static str) -> KernelName {
    name.parse().expect("names in the source are names")
}

fn expected(what: &str, value: &Toml) -> String {
    let article = if matches!(value, Toml::Integer(_) | Toml::Array(_)) {
        "an"
    } else {
        "a"
    };
    format!("expected {what}, got {article} {}", value.type_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            (" 1h 30m ", 5_400_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            " ",
            "5",
            "s",
            "-5s",
            "1.5s",
            "5 s",
            "5d",
            "99999999999999999999s",
            "9999999h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_duration_panics(text: String) {
            let _ = duration(&text);
        }

        #[test]
        fn durations_and_sizes_round_trip(ms in 0u64..1_000_000_000, kib in 0u64..1 << 40) {
            let written = Duration::from_millis(ms);
            prop_assert_eq!(duration(written.show().trim_matches('"')), Some(written));
            let size = Size(kib << 10);
            prop_assert_eq!(Size::parse(&Toml::String(size.show().trim_matches('"').to_owned())), Ok(size));
        }
    }
}
