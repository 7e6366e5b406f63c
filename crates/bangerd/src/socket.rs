//! The listening socket: made so that no moment exists in which others could connect, and never in
//! the place of one that is in use.
//!
//! The caller holds the daemon's lock, so a socket found here belongs to nobody, to a daemon that
//! was killed, or to something that is not banger's to remove.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use banger_host::files::{PrivateDirError, open_directory, private_directory};
use banger_host::layout::{Kind, Layout, PrivateError, check_private};
use banger_protocol::error::{ApiError, ErrorKind};
use rustix::fs::{AtFlags, FileType, Gid, Mode, chmodat, chownat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;

use crate::store::with_sources;

/// Name under which a socket is prepared.
const UNFINISHED: &str = ".bangerd.sock.new";
const NAME: &str = "bangerd.sock";
/// Whose members may use a system daemon.
const GROUP: &str = "banger";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("{path} is in use by {holder}", path = .path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("{path} belongs to user {owner}", path = .path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error(transparent)]
    Private(#[from] PrivateDirError),
    #[error(transparent)]
    Unsafe(#[from] PrivateError),
    #[error("cannot {deed} {path}", path = .path.display())]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<SocketError> for ApiError {
    fn from(error: SocketError) -> ApiError {
        let hint = match &error {
            SocketError::InUse { .. } => {
                "stop what uses it, or set BANGER_ROOT to another directory"
            }
            SocketError::NotASocket(_) | SocketError::Foreign { .. } => {
                "it is left alone: remove it, or set BANGER_ROOT to another directory"
            }
            SocketError::Private(_) | SocketError::Unsafe(_) => {
                "the socket's directory must be a directory of your own which nobody else can write to"
            }
            SocketError::Io { .. } => "set BANGER_ROOT to a directory you can write to",
        };
        ApiError::new(ErrorKind::DaemonUnavailable, with_sources(&error)).hint(hint)
    }
}

/// A socket that accepts connections, and goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    directory: OwnedFd,
    inode: u64,
    path: PathBuf,
    group: Option<u32>,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Makes the socket of a layout.
    ///
    /// # Errors
    /// [`SocketError`]; what was there is untouched unless it was a dead socket of ours.
    pub fn bind(layout: &Layout) -> Result<Socket, SocketError> {
        let group = match layout.kind {
            Kind::System => group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default()),
            Kind::Root | Kind::User => None,
        };
        let directory = runtime_directory(layout)?;
        let path = layout.socket();
        clear(&directory, &path)?;
        let fail = |deed| {
            let path = path.clone();
            move |errno: Errno| SocketError::Io {
                deed,
                path,
                source: errno.into(),
            }
        };
        match unlinkat(&directory, UNFINISHED, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail("replace")(errno)),
        }
        // Through /proc, so that no directory is too long for a socket's address.
        let address = format!("/proc/self/fd/{}/{UNFINISHED}", directory.as_raw_fd());
        let listener = UnixListener::bind(address).map_err(|source| SocketError::Io {
            deed: "listen on",
            path: path.clone(),
            source,
        })?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        chmodat(
            &directory,
            UNFINISHED,
            Mode::from_raw_mode(mode),
            AtFlags::empty(),
        )
        .map_err(fail("set the mode of"))?;
        if let Some(group) = group {
            chownat(
                &directory,
                UNFINISHED,
                None,
                Some(Gid::from_raw(group)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(fail("give the group of"))?;
        }
        renameat(&directory, UNFINISHED, &directory, NAME).map_err(fail("publish"))?;
        let inode = statat(&directory, NAME, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("inspect"))?
            .st_ino;
        Ok(Socket {
            directory,
            inode,
            path,
            group,
            listener: Some(listener),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose members may connect, beside the daemon's user.
    pub fn group(&self) -> Option<u32> {
        self.group
    }

    /// The listener, once.
    pub fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = statat(&self.directory, NAME, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| found.st_ino == self.inode);
        if ours && let Err(error) = unlinkat(&self.directory, NAME, AtFlags::empty()) {
            tracing::warn!(%error, "cannot remove the socket");
        }
    }
}

fn runtime_directory(layout: &Layout) -> Result<OwnedFd, SocketError> {
    let path = &layout.runtime;
    let fail = |source| SocketError::Io {
        deed: "make the directory",
        path: path.clone(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    if layout.kind != Kind::System {
        return Ok(private_directory(path)?);
    }
    // Members of the group must get through.
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    check_private(path, geteuid().as_raw())?;
    open_directory(path).map_err(fail)
}

/// Makes sure that nothing is where the socket goes, or says why something is.
fn clear(directory: &OwnedFd, path: &Path) -> Result<(), SocketError> {
    let io = |deed| {
        move |errno: Errno| SocketError::Io {
            deed,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    let found = match statat(directory, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(io("inspect"))?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    if found.st_uid != geteuid().as_raw() {
        return Err(SocketError::Foreign {
            path: path.to_owned(),
            owner: found.st_uid,
        });
    }
    match probe(directory) {
        // Nobody listens.
        Err(Errno::CONNREFUSED) => {
            unlinkat(directory, NAME, AtFlags::empty()).map_err(io("replace"))
        }
        Ok(holder) => Err(SocketError::InUse {
            path: path.to_owned(),
            holder,
        }),
        Err(errno) => Err(io("connect to")(errno)),
    }
}

/// Who listens.
fn probe(directory: &OwnedFd) -> Result<String, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let address =
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).as_str())?;
    match connect(&socket, &address) {
        Ok(()) => Ok(
            rustix::net::sockopt::socket_peercred(socket.as_fd()).map_or_else(
                |_| "another process".to_owned(),
                |peer| format!("process {}", peer.pid.as_raw_nonzero()),
            ),
        ),
        // Somebody listens who does not accept.
        Err(Errno::AGAIN) => Ok("a process that does not answer".to_owned()),
        Err(errno) => Err(errno),
    }
}

/// The group's number in the text of `/etc/group`.
fn group_id(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == GROUP).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    fn layout(root: &Path) -> Layout {
        Layout {
            kind: Kind::Root,
            config_file: root.join("config.toml"),
            state: root.join("state"),
            runtime: root.join("run"),
        }
    }

    #[test]
    fn a_socket_is_private_and_goes_with_its_daemon() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let socket = Socket::bind(&layout).unwrap();
        let metadata = std::fs::symlink_metadata(layout.socket()).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let runtime = std::fs::metadata(&layout.runtime).unwrap();
        assert_eq!(runtime.permissions().mode() & 0o777, 0o700);
        UnixStream::connect(layout.socket()).unwrap();
        drop(socket);
        assert_eq!(std::fs::read_dir(&layout.runtime).unwrap().count(), 0);
    }

    #[test]
    fn one_in_use_is_refused_and_a_dead_one_replaced() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let listener = {
            std::fs::create_dir(&layout.runtime).unwrap();
            UnixListener::bind(layout.socket()).unwrap()
        };
        let error = Socket::bind(&layout).unwrap_err();
        let SocketError::InUse { holder, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*holder, format!("process {}", std::process::id()));
        assert_eq!(ApiError::from(error).kind, ErrorKind::DaemonUnavailable);
        drop(listener);
        Socket::bind(&layout).unwrap();
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        std::fs::create_dir(&layout.runtime).unwrap();
        std::fs::write(layout.socket(), "theirs").unwrap();
        assert!(matches!(
            Socket::bind(&layout),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(layout.socket()).unwrap(), b"theirs");
        std::fs::remove_file(layout.socket()).unwrap();
        std::os::unix::fs::symlink("/dev/null", layout.socket()).unwrap();
        assert!(matches!(
            Socket::bind(&layout),
            Err(SocketError::NotASocket(_))
        ));
    }

    #[test]
    fn one_of_another_user_is_left_alone() {
        if !geteuid().is_root() {
            eprintln!("skipped: root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        std::fs::create_dir(&layout.runtime).unwrap();
        // Nobody listens, and still it is not ours to remove.
        drop(UnixListener::bind(layout.socket()).unwrap());
        std::os::unix::fs::chown(layout.socket(), Some(65534), None).unwrap();
        let error = Socket::bind(&layout).unwrap_err();
        assert!(
            matches!(error, SocketError::Foreign { owner: 65534, .. }),
            "{error}"
        );
        assert!(layout.socket().exists());
    }

    #[test]
    fn a_directory_that_is_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        std::os::unix::fs::symlink(root.path(), &layout.runtime).unwrap();
        assert!(matches!(
            Socket::bind(&layout),
            Err(SocketError::Private(_))
        ));
    }

    #[test]
    fn long_directories_are_no_problem() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(200));
        let layout = layout(&deep);
        drop(Socket::bind(&layout).unwrap());
    }

    #[test]
    fn the_group_is_found_by_name() {
        let text = "root:x:0:\nbangers:x:7:\nbanger:x:1234:ann,bob\n";
        assert_eq!(group_id(text), Some(1234));
        assert_eq!(group_id("bangers:x:7:\n"), None);
        assert_eq!(group_id("banger:x:many:\n"), None);
        assert_eq!(group_id(""), None);
    }
}
