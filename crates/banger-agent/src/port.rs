//! The virtio-serial port to the host.
//!
//! While no host is attached, reads give 0 and poll says HUP, for ever; the runtime would spin on
//! that. So the port is watched by an epoll of its own, edge-triggered, and the runtime watches
//! that one: a host that comes or goes is one event, and waiting costs nothing.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The driver hands out at most one of its buffers per read, and a vector counts as many reads.
const DRIVER_BUFFER: usize = 4096;

/// Reads in one system call.
const READS: usize = 16;

/// The device of the port with this name; `sys` is where sysfs is mounted.
pub fn find(sys: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(sys.join("class/virtio-ports"))? {
        let entry = entry?;
        let found = std::fs::read_to_string(entry.path().join("name"));
        if found.is_ok_and(|found| found.trim_end() == name) {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

pub struct Port {
    fd: OwnedFd,
    epoll: AsyncFd<OwnedFd>,
    readable: bool,
    writable: bool,
}

impl Port {
    pub fn open(path: &Path) -> io::Result<Port> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Port::new(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// `fd` does not block.
    pub fn new(fd: OwnedFd) -> io::Result<Port> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&epoll, &fd, epoll::EventData::new_u64(0), events)?;
        Ok(Port {
            fd,
            epoll: crate::watch::watch(epoll)?,
            readable: false,
            writable: false,
        })
    }

    /// Waits until something changes: after an end of file, until a host may be there.
    pub async fn changed(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        use epoll::EventFlags as Flags;
        loop {
            let mut guard = ready!(self.epoll.poll_read_ready(cx))?;
            let mut events = [epoll::Event {
                flags: Flags::empty(),
                data: epoll::EventData::new_u64(0),
            }];
            let now = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let count = match epoll::wait(self.epoll.get_ref(), &mut events[..], Some(&now)) {
                Err(rustix::io::Errno::INTR) => continue,
                count => count?,
            };
            guard.clear_ready();
            if count == 0 {
                continue;
            }
            let flags = events[0].flags;
            let broken = Flags::HUP | Flags::ERR;
            self.readable |= flags.intersects(Flags::IN | broken);
            self.writable |= flags.intersects(Flags::OUT | broken);
            return Poll::Ready(Ok(()));
        }
    }

    fn read_now(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        // SAFETY: only written to, by the kernel, see below.
        let spare = unsafe { buf.unfilled_mut() };
        let mut parts: [libc::iovec; READS] = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; READS];
        let mut count = 0;
        for (part, piece) in parts.iter_mut().zip(spare.chunks_mut(DRIVER_BUFFER)) {
            part.iov_base = piece.as_mut_ptr().cast();
            part.iov_len = piece.len();
            count += 1;
        }
        // SAFETY: the parts are disjoint pieces of the buffer, which outlives the call.
        let read = unsafe { libc::readv(self.fd.as_raw_fd(), parts.as_ptr(), count) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has written so many bytes from the beginning on: a part follows
        // only after the one before is full.
        unsafe { buf.assume_init(read) };
        buf.advance(read);
        Ok(read)
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            while !self.readable {
                ready!(self.poll_event(cx))?;
            }
            match self.read_now(buf) {
                Ok(count) => {
                    // At the end there is nothing more until something changes.
                    self.readable = count > 0;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            while !self.writable {
                ready!(self.poll_event(cx))?;
            }
            match rustix::io::write(&self.fd, buf) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn ports_are_found_by_name() {
        let sys = tempfile::tempdir().unwrap();
        assert!(find(sys.path(), "banger.agent.0").is_err());
        for (port, name) in [
            ("vport0p1", "org.other\n"),
            ("vport0p2", "banger.agent.0\n"),
        ] {
            let directory = sys.path().join("class/virtio-ports").join(port);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("name"), name).unwrap();
        }
        let found = find(sys.path(), "banger.agent.0").unwrap();
        assert_eq!(found, Some(PathBuf::from("/dev/vport0p2")));
        assert_eq!(find(sys.path(), "none").unwrap(), None);
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_is_told_once() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut port = Port::new(ours.into()).unwrap();
        let mut peer = tokio::net::UnixStream::from_std(theirs).unwrap();
        let data: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
        let sent = data.clone();
        let writer = tokio::spawn(async move {
            peer.write_all(&sent).await.unwrap();
            peer
        });
        let mut got = vec![0; data.len()];
        port.read_exact(&mut got).await.unwrap();
        assert!(got == data);
        let mut peer = writer.await.unwrap();
        let reader = tokio::spawn(async move {
            let mut got = vec![0; 3_000_000];
            peer.read_exact(&mut got).await.unwrap();
            got
        });
        port.write_all(&data).await.unwrap();
        assert!(reader.await.unwrap() == data);
        // The peer is gone with its task.
        assert_eq!(port.read(&mut got).await.unwrap(), 0);
    }
}
