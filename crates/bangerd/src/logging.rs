//! The daemon's log: JSON lines to a bounded file where nobody watches, text on stderr otherwise.
//!
//! What guests, images and clients do may be logged; how much of it, they do not decide: lines
//! beyond a rate are counted instead of written, and the file is cut.

mod bounded;
mod rate;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use banger_protocol::error::{ApiError, ErrorKind};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::LogLevel;
use bounded::BoundedFile;
use rate::{Rate, Verdict};

/// Begins to log.
///
/// # Errors
/// `bad_config` where the file cannot be opened.
pub fn start(level: LogLevel, file: Option<(&Path, u64)>) -> Result<(), ApiError> {
    let filter = EnvFilter::new(filter(level));
    let builder = fmt().with_env_filter(filter).with_target(true);
    match file {
        Some((path, limit)) => {
            let file = BoundedFile::open(path, limit).map_err(|error| {
                ApiError::new(
                    ErrorKind::BadConfig,
                    format!("cannot open the log {}: {error}", path.display()),
                )
            })?;
            builder.json().with_writer(Mutex::new(file)).init();
        }
        None => builder
            .with_writer(Mutex::new(Rated {
                rate: Rate::new(Instant::now()),
                out: std::io::stderr(),
            }))
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
    }
    Ok(())
}

/// Lines of text at a bounded rate: what reads stderr may keep all of it.
struct Rated<W> {
    rate: Rate,
    out: W,
}

impl<W: Write> Write for Rated<W> {
    /// `line` is one line: the subscriber writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Verdict::Write { dropped } = self.rate.next(Instant::now()) {
            if dropped > 0 {
                writeln!(self.out, "{dropped} lines were dropped")?;
            }
            self.out.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Ours at the level, what others write only where it is a warning: HTTP libraries say much.
fn filter(level: LogLevel) -> String {
    let others = match level {
        LogLevel::Trace => "debug",
        LogLevel::Error => "error",
        _ => "warn",
    };
    let level = level.as_str();
    format!(
        "{others},bangerd={level},banger_host={level},banger_image={level},banger_vmm={level},banger_protocol={level}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_does_not_reach_stderr() {
        let mut rated = Rated {
            rate: Rate::new(Instant::now()),
            out: Vec::new(),
        };
        for _ in 0..100_000 {
            rated.write_all(b"a guest\n").unwrap();
        }
        let text = String::from_utf8(rated.out).unwrap();
        // 2000 at once, and as many as a slow host has time for.
        assert!((2000..50_000).contains(&text.lines().count()));
    }

    #[test]
    fn filters_are_valid() {
        for level in [
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
            LogLevel::Trace,
        ] {
            EnvFilter::builder().parse(filter(level)).unwrap();
        }
    }
}
