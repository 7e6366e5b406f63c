//! A pseudo-terminal to run the CLI on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};

use crate::host::PATIENCE;

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);
nix::ioctl_none_bad!(set_controlling, nix::libc::TIOCSCTTY);

/// A program on a terminal: what it prints is collected, what is typed goes in.
pub struct Terminal {
    controller: File,
    terminal: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
    pub child: Child,
}

impl Terminal {
    pub fn run(command: &mut Command, rows: u16, columns: u16) -> Terminal {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let standard = || Stdio::from(slave.try_clone().unwrap());
        command
            .stdin(standard())
            .stdout(standard())
            .stderr(standard());
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                set_controlling(0)?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let controller = File::from(master);
        let mut reader = controller.try_clone().unwrap();
        let (send, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = reader.read(&mut buffer) {
                if read == 0 || send.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal {
            controller,
            terminal: slave,
            output,
            seen: String::new(),
            child,
        }
    }

    pub fn type_text(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).unwrap();
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open and the pointer is to a live Winsize.
        unsafe {
            set_size(std::os::fd::AsRawFd::as_raw_fd(&self.terminal), &size).unwrap();
        }
    }

    /// Waits until the text has been printed, and forgets all up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{text:?} was not printed; seen: {:?}",
                self.seen
            );
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// The terminal's mode, to compare before and after.
    pub fn mode(&self) -> nix::sys::termios::Termios {
        nix::sys::termios::tcgetattr(&self.terminal).unwrap()
    }
}
