//! Reaches a VMM's sockets in its jail directory.
//!
//! By descriptor, so that no path is too long for `sun_path` and none is looked up twice; and
//! with the listener's credentials checked, since a VMM under attack owns its sockets and could
//! put a link to somebody else's in their place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use banger_host::files::{open_beneath, open_directory};
use rustix::fs::{AtFlags, FileType, OFlags, fstat, unlinkat};
use tokio::net::UnixStream;

#[derive(Debug)]
pub(crate) struct JailDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

impl JailDirectory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            fd: open_directory(path)?,
            path: path.to_owned(),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes a file left by an earlier run; absence is success.
    pub(crate) fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Connects to the socket `name` that process `pid` listens on.
    pub(crate) async fn connect(&self, name: &str, pid: i32) -> io::Result<UnixStream> {
        let socket = open_beneath(
            &self.fd,
            Path::new(name),
            OFlags::PATH | OFlags::NOFOLLOW,
            0,
        )?;
        let mode = fstat(&socket)?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::Socket {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "not a socket",
            ));
        }
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?;
        if stream.peer_cred()?.pid() != Some(pid) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another process listens on the machine's socket",
            ));
        }
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let parent = tempfile::tempdir().unwrap();
        let deep = parent.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let jail = JailDirectory::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/agent.sock", jail.fd().as_raw_fd());
        let listener = UnixListener::bind(short).unwrap();
        let (client, server) = tokio::join!(jail.connect("agent.sock", me()), listener.accept());
        client.unwrap();
        server.unwrap();
        jail.unlink("agent.sock").unwrap();
        jail.unlink("agent.sock").unwrap();
        assert!(jail.connect("agent.sock", me()).await.is_err());
    }

    #[tokio::test]
    async fn a_link_or_a_foreign_listener_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let _listener = UnixListener::bind(path.join("real")).unwrap();
        std::os::unix::fs::symlink(path.join("real"), path.join("link")).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        let jail = JailDirectory::open(path).unwrap();
        let cases = [
            ("real", me(), true),
            ("real", 1, false),
            ("link", me(), false),
            ("file", me(), false),
        ];
        for (name, pid, works) in cases {
            assert_eq!(jail.connect(name, pid).await.is_ok(), works, "{name} {pid}");
        }
    }
}
