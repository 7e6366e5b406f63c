//! The daemon's log: JSON lines to a bounded file where nobody watches, text on stderr otherwise.
//!
//! What guests, images and clients do may be logged; how much of it, they do not decide: lines
//! beyond a rate are counted instead of written, and the file is cut.

mod bounded;
mod rate;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use banger_protocol::error::{ApiError, ErrorKind};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::LogLevel;
use bounded::BoundedFile;

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
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
    }
    Ok(())
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
