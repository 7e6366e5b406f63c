//! NDJSON: one JSON value per line, read as they come.

use std::marker::PhantomData;

use banger_protocol::error::{ApiError, ErrorKind};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

/// Longest line that is accepted.
const MAX_LINE: usize = 16 << 20;

/// A stream of JSON lines.
pub struct Events<T> {
    body: Incoming,
    lines: Lines,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    pub fn new(body: Incoming) -> Self {
        Events {
            body,
            lines: Lines::default(),
            kind: PhantomData,
        }
    }

    /// The next value; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(line) = self.lines.next()? {
                return parse(&line).map(Some);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ApiError::new(
                        ErrorKind::DaemonUnavailable,
                        format!("the connection to bangerd broke: {error}"),
                    ));
                }
                None => {
                    return match self.lines.rest() {
                        Some(line) => parse(&line).map(Some),
                        None => Ok(None),
                    };
                }
            }
        }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(line).map_err(|error| {
        ApiError::new(
            ErrorKind::VersionMismatch,
            format!("cannot understand an event of bangerd: {error}"),
        )
    })
}

/// Cuts a stream of bytes into lines; empty ones are left out.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// Bytes at the front of the buffer known to hold no newline.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Result<Option<BytesMut>, ApiError> {
        while let Some(at) = self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        {
            let line = self.buffer.split_to(self.searched + at);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.buffer.len();
        if self.searched > MAX_LINE {
            return Err(ApiError::new(
                ErrorKind::Internal,
                "bangerd sent an event that is too long",
            ));
        }
        Ok(None)
    }

    fn rest(&mut self) -> Option<BytesMut> {
        self.searched = 0;
        let rest = self.buffer.split();
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert!(lines.next().is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(
            text in "[a-c\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for pair in cuts.windows(2) {
                lines.push(&text.as_bytes()[pair[0]..pair[1]]);
                while let Some(line) = lines.next().unwrap() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            seen.extend(lines.rest().map(|line| String::from_utf8(line.to_vec()).unwrap()));
            let expected: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
