//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};

/// End of file, as the user of a terminal types it whose settings do not say.
pub const END_OF_FILE: u8 = 0x04;

/// Our end, not blocking, and the process's, owned by its user.
pub fn open(rows: u16, columns: u16, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    // By descriptor: the image's /dev/pts may be anything.
    let theirs = ioctl_tiocgptpeer(
        &ours,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    resize(&ours, rows, columns)?;
    rustix::fs::fchown(&theirs, Some(Uid::from_raw(uid)), None)?;
    rustix::fs::fchmod(&theirs, Mode::from_raw_mode(0o620))?;
    let flags = rustix::fs::fcntl_getfl(&ours)?;
    rustix::fs::fcntl_setfl(&ours, flags | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// What ends a line that is being typed, and with an empty one the file; none where keys are read
/// rather than lines.
pub fn end_of_file(ours: impl AsFd) -> Option<u8> {
    let settings = tcgetattr(ours).ok()?;
    settings
        .local_modes
        .contains(LocalModes::ICANON)
        .then(|| settings.special_codes[SpecialCodeIndex::VEOF])
}

pub fn resize(ours: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(ours, size)?)
}
