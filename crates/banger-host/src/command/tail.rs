//! The last bytes of a program's standard error.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes kept while the program runs.
const KEPT: usize = 8 << 10;
/// Lines quoted in an error.
const LINES: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    /// Reads to the end; a read error ends the tail, since the exit status says more.
    pub(super) async fn collect(reader: Option<impl AsyncRead + Unpin>) -> Self {
        let mut tail = Self::default();
        let Some(mut reader) = reader else {
            return tail;
        };
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return tail,
                Ok(count) => tail.push(&buffer[..count]),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(KEPT);
        if excess > 0 {
            self.cut = true;
            self.bytes.drain(..excess);
        }
    }

    /// The last lines, printable.
    pub(super) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<&str> = text.lines().collect();
        // The first line of a cut tail began before what we kept.
        if self.cut && lines.len() > 1 {
            lines.remove(0);
        }
        let from = lines.len().saturating_sub(LINES);
        lines[from..]
            .iter()
            .map(|line| {
                // A carriage return rewrites the line: only the last version counts.
                let line = line.trim_end_matches('\r');
                line.rsplit('\r').next().unwrap_or(line)
            })
            .map(|line| {
                line.chars()
                    .filter(|c| *c == '\t' || !c.is_control())
                    .collect::<String>()
            })
            .collect::<Vec<_>>()
            .join("\n")
            .trim()
            .to_owned()
    }

    pub(super) fn into_text(self) -> String {
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_printable_lines() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"one\ntwo\n", "one\ntwo"),
            (b"10%\r50%\r100%\r\n", "100%"),
            (b"\x1b[31mred\x1b[0m\n", "[31mred[0m"),
            (b"bad \xff byte", "bad \u{fffd} byte"),
        ];
        for (input, expected) in cases {
            let mut tail = Tail::default();
            tail.push(input);
            assert_eq!(tail.text(), *expected, "{input:?}");
        }
    }

    #[test]
    fn forgets_the_beginning() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let text = tail.text();
        assert!(tail.bytes.len() <= KEPT);
        assert_eq!(text.lines().count(), LINES);
        assert!(
            text.starts_with("line 9988\n") && text.ends_with("line 9999"),
            "{text}"
        );
    }
}
