//! What the agent has to say: a few lines in the kernel's log, which the console shows.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// A note of a fault that does not stop the agent.
pub fn warn(message: &str) {
    write(4, message);
}

/// A note of something that only happens a few times in a machine's life.
pub fn info(message: &str) {
    write(6, message);
}

fn write(level: u8, message: &str) {
    // One record is one write and one line, whatever an image put into the message.
    let message: String = message
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(800)
        .collect();
    let line = format!("<{level}>banger-agent: {message}\n");
    let log = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    match log {
        Ok(mut log) if std::process::id() == 1 || crate::is_serving() => {
            // There is no further place to tell that telling failed.
            let _ = log.write_all(line.as_bytes());
        }
        _ => eprint!("{}", &line[3..]),
    }
}
