//! What a guest printed on its serial console, made fit for a terminal or an error message.
//!
//! The console is a Unix socket of the VMM's: while nobody is connected the VMM throws the
//! output away, so a guest cannot fill the disk when no daemon lives. While one does, it reads at
//! a bounded rate into a file with a cap. Launching connects before the guest's first
//! instruction.
//!
//! Limits: what a guest prints between the end of one daemon and the start of the next is lost.

use std::io;
use std::path::Path;

use crate::{jail, jail_path, log};

/// Bytes looked at for a tail.
const TAIL_BYTES: u64 = 64 << 10;
/// Longest line kept, in characters.
const LINE_LIMIT: usize = 500;

/// The last `lines` lines of the console of the machine in this jail directory, printable; empty
/// when there is none.
pub fn tail(directory: &Path, lines: usize) -> String {
    read(directory, jail_path::CONSOLE_LOG)
        .map(|bytes| last_lines(&printable(&bytes), lines))
        .unwrap_or_default()
}

/// The last `lines` lines in which the VMM itself may have said why it ended; see [`last_words`].
pub fn vmm_tail(directory: &Path, lines: usize) -> String {
    read(directory, jail_path::VMM_LOG)
        .map(|bytes| last_words(&bytes, lines))
        .unwrap_or_default()
}

/// The last lines of a VMM's log that could be the reason of its end: neither a note of our
/// launcher's, which shares the log, nor a warning, after which a VMM goes on.
pub(crate) fn last_words(log: &[u8], lines: usize) -> String {
    let text = printable(log);
    let words: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(jail::NOTE) && !line.contains(": warning: "))
        .collect();
    last_lines(&words.join("\n"), lines)
}

fn read(directory: &Path, name: &str) -> io::Result<Vec<u8>> {
    use std::os::fd::AsFd;
    let directory = banger_host::files::open_directory(directory)?;
    log::read_tail(directory.as_fd(), name, TAIL_BYTES)
}

/// The guest kernel's own words about why it gave up, where the text ends in a panic.
pub fn panic_line(text: &str) -> Option<&str> {
    text.lines().rev().find_map(|line| {
        let start = line.find("Kernel panic - not syncing")?;
        // The closing line of the report repeats it in other words.
        (!line.contains("---[ end")).then(|| line[start..].trim())
    })
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Removes terminal escapes and control bytes, replaces what is not UTF-8, cuts long lines.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut state = State::Text;
    let mut column = 0;
    for c in String::from_utf8_lossy(bytes).chars() {
        state = match state {
            State::Text => match c {
                '\u{1b}' => State::Escape,
                '\u{9b}' => State::Control,
                '\n' => {
                    out.push('\n');
                    column = 0;
                    State::Text
                }
                c if c == '\t' || !c.is_control() => {
                    match column.cmp(&LINE_LIMIT) {
                        std::cmp::Ordering::Less => out.push(c),
                        std::cmp::Ordering::Equal => out.push('…'),
                        std::cmp::Ordering::Greater => {}
                    }
                    column += 1;
                    State::Text
                }
                _ => State::Text,
            },
            State::Escape => match c {
                '[' => State::Control,
                ']' | 'P' | 'X' | '^' | '_' => State::String,
                '\u{20}'..='\u{2f}' => State::Escape,
                _ => State::Text,
            },
            // Parameters and intermediates up to a final byte.
            State::Control => match c {
                '\u{20}'..='\u{3f}' => State::Control,
                '\n' => {
                    out.push('\n');
                    column = 0;
                    State::Text
                }
                _ => State::Text,
            },
            // A string ends at BEL or ST; a newline ends one that was never meant to be.
            State::String => match c {
                '\u{7}' | '\u{9c}' => State::Text,
                '\u{1b}' => State::Escape,
                '\n' => {
                    out.push('\n');
                    column = 0;
                    State::Text
                }
                _ => State::String,
            },
        };
    }
    out
}

enum State {
    Text,
    Escape,
    Control,
    String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain\r\nlines\r\n", "plain\nlines\n"),
            (b"\x1b[1;31mred\x1b[0m \x1b(Bx", "red x"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]0;title\x1b\\after", "after"),
            (b"\x1bPq#0;2;0\x1b\\x\x1b_apc\x1b\\y", "xy"),
            (b"\x1bc\x1b[2J\x1b[3;4Hhome", "home"),
            (b"bell\x07 nul\0 del\x7f", "bell nul del"),
            (b"\xff\xfe ok", "\u{fffd}\u{fffd} ok"),
            ("\u{9b}31mc1 \u{85}x".as_bytes(), "c1 x"),
            (b"\x1b]unfinished\nnext", "\nnext"),
            (b"tab\there", "tab\there"),
            (b"\x1b", ""),
        ];
        for (input, expected) in cases {
            assert_eq!(printable(input), *expected, "{input:?}");
        }
        let long = printable("é".repeat(10_000).as_bytes());
        assert_eq!(long.chars().count(), LINE_LIMIT + 1);
    }

    #[test]
    fn last_lines_are_the_ones_that_say_something() {
        let text = "one\n\n  \ntwo\nthree\n\n";
        assert_eq!(last_lines(text, 2), "two\nthree");
        assert_eq!(last_lines(text, 99), "one\ntwo\nthree");
        assert_eq!(last_lines(text, 0), "");
        assert_eq!(tail(Path::new("/nonexistent"), 5), "");
    }

    #[test]
    fn last_words_are_no_note_and_no_warning() {
        let note = b"banger: cgroup /sys/fs/cgroup/x is not usable: Permission denied\n";
        let warning = b"qemu-system-x86_64: warning: TCG doesn't support requested feature\n";
        let error = b"qemu-system-x86_64: cannot set up guest memory\n";
        let cases: [(&[&[u8]], &str); 4] = [
            (&[], ""),
            (&[note, warning], ""),
            (
                &[note, error, warning],
                "qemu-system-x86_64: cannot set up guest memory",
            ),
            (&[error, b"a\n", b"b\n"], "a\nb"),
        ];
        for (log, expected) in cases {
            assert_eq!(last_words(&log.concat(), 2), expected);
        }
    }

    #[test]
    fn a_panic_is_found_by_its_line() {
        let text = "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\n[    1.3] CPU: 0\n[    1.4] ---[ end Kernel panic - not syncing: VFS ]---\n";
        assert_eq!(
            panic_line(text),
            Some("Kernel panic - not syncing: VFS: Unable to mount root fs")
        );
        assert_eq!(panic_line("all is well"), None);
    }

    proptest::proptest! {
        #[test]
        fn printable_is_printable(bytes: Vec<u8>) {
            let text = printable(&bytes);
            assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{text:?}");
        }
    }
}
