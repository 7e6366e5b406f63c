//! Who may ask, and in which version. Both are checked before anything of a request is read.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use banger_protocol::api::{VERSION, VERSION_HEADER, path};
use banger_protocol::error::{ApiError, ErrorKind};
use tokio::net::UnixStream;

use super::failure::Failure;

/// The process at the other end of a connection, as the kernel noted it when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    /// Its primary and its supplementary groups.
    pub groups: Vec<u32>,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own user.
    pub uid: u32,
    /// The group of a system daemon's socket.
    pub group: Option<u32>,
}

impl Access {
    pub fn allows(&self, peer: &Peer) -> bool {
        peer.uid == 0
            || peer.uid == self.uid
            || self.group.is_some_and(|group| peer.groups.contains(&group))
    }
}

/// Most groups a process can have on Linux (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

impl Peer {
    /// # Errors
    /// The kernel does not say who it is.
    pub fn of(stream: &UnixStream) -> std::io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary_groups(stream)?;
        groups.push(credentials.gid());
        Ok(Peer {
            uid: credentials.uid(),
            groups,
        })
    }
}

fn supplementary_groups(stream: &UnixStream) -> std::io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(|_| std::io::ErrorKind::InvalidInput)?;
        // SAFETY: the pointer and `bytes` describe the vector's initialised elements, and the
        // descriptor is open for the life of `stream`.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result == 0 {
            groups.truncate(bytes as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= MAX_GROUPS {
            return Err(error);
        }
        groups.resize(MAX_GROUPS, 0);
    }
}

/// What the guard of one connection knows.
#[derive(Clone)]
pub struct Connection {
    /// Absent where the kernel did not say.
    pub peer: Option<Peer>,
}

/// Lets a request pass only from a peer that may ask, in the version spoken here.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let allowed = request
        .extensions()
        .get::<Connection>()
        .and_then(|connection| connection.peer.as_ref())
        .is_some_and(|peer| access.allows(peer));
    if !allowed {
        return Failure::from(
            ApiError::new(
                ErrorKind::PermissionDenied,
                "this bangerd belongs to another user",
            )
            .hint("start your own, or join the group of its socket"),
        )
        .into_response();
    }
    if let Err(failure) = check_version(&request) {
        return failure.into_response();
    }
    next.run(request).await
}

fn check_version(request: &Request) -> Result<(), Failure> {
    let asks_who = request.uri().path() == path::DAEMON
        && (request.method() == Method::GET || request.method() == Method::HEAD);
    if asks_who {
        return Ok(());
    }
    let mut versions = request.headers().get_all(VERSION_HEADER).iter();
    let stated = versions.next().map(|value| value.to_str().unwrap_or("?"));
    if versions.next().is_none() && stated == Some(VERSION.to_string().as_str()) {
        return Ok(());
    }
    let message = match stated {
        None => format!("the request says no API version in the header {VERSION_HEADER}"),
        Some(stated) => format!(
            "the request speaks API version {}, and this bangerd version {VERSION}",
            stated.chars().take(20).collect::<String>()
        ),
    };
    Err(ApiError::new(ErrorKind::VersionMismatch, message)
        .hint("use a banger and a bangerd of the same release; restart bangerd after an upgrade")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn owner_root_and_the_sockets_group_may_ask() {
        let peer = |uid, groups: &[u32]| Peer {
            uid,
            groups: groups.to_vec(),
        };
        let user = Access {
            uid: 1000,
            group: None,
        };
        let system = Access {
            uid: 0,
            group: Some(77),
        };
        for (access, peer, expected) in [
            (user, peer(1000, &[1000]), true),
            (user, peer(0, &[0]), true),
            (user, peer(1001, &[1000]), false),
            (system, peer(0, &[]), true),
            (system, peer(1000, &[1000, 77]), true),
            (system, peer(1000, &[1000]), false),
        ] {
            assert_eq!(access.allows(&peer), expected, "{access:?} {peer:?}");
        }
    }

    #[tokio::test]
    async fn the_kernel_says_who_the_peer_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        assert!(peer.groups.contains(&rustix::process::getgid().as_raw()));
    }

    #[test]
    fn versions() {
        let check = |method: &str, path: &str, headers: &[&str]| {
            let mut request = Request::builder().method(method).uri(path);
            for value in headers {
                request = request.header(VERSION_HEADER, *value);
            }
            check_version(&request.body(Body::empty()).unwrap()).is_ok()
        };
        assert!(check("GET", "/v1/vms", &["1"]));
        assert!(check("GET", "/v1/daemon", &[]));
        assert!(check("HEAD", "/v1/daemon", &[]));
        for (method, path, headers) in [
            ("GET", "/v1/vms", &[][..]),
            ("GET", "/v1/vms", &["2"][..]),
            ("GET", "/v1/vms", &[""][..]),
            ("GET", "/v1/vms", &["1", "2"][..]),
            ("POST", "/v1/daemon", &[][..]),
            ("POST", "/v1/daemon/stop", &[][..]),
            ("GET", "/nowhere", &[][..]),
        ] {
            assert!(!check(method, path, headers), "{method} {path} {headers:?}");
        }
    }
}
