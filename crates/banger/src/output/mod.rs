//! What goes to stdout: data, and nothing else.
//!
//! Tables and lines for people, or with `--json` the API's own types. Limits: no colour and no
//! width of a terminal, so that a table in a file is the table on the screen.

mod age;
mod table;

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Failure, harmless_json, printable};

pub use age::age;
pub use table::{Align, Table};

/// Writes text to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to stdout as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes one value as JSON that people can read too.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&(encode(serde_json::to_string_pretty(value))? + "\n"))
}

/// Writes one value as one line of JSON: for commands that answer once per target.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    print(&(encode(serde_json::to_string(value))? + "\n"))
}

fn encode(result: serde_json::Result<String>) -> Result<String, Failure> {
    result
        .map(harmless_json)
        .map_err(|error| Failure::output(&error.into()))
}

/// Names and values, one pair per line.
pub fn fields(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", printable(value)))
        .collect()
}

/// The first 12 hexadecimal digits of a digest: what people compare.
pub fn short_digest(digest: &str) -> &str {
    let hexadecimal = digest.split_once(':').map_or(digest, |(_, rest)| rest);
    hexadecimal.get(..12).unwrap_or(hexadecimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_digest("abc"), "abc");
        assert_eq!(short_digest(""), "");
        assert_eq!(short_digest("sha256:ééééééé"), "éééééé");
    }
}
