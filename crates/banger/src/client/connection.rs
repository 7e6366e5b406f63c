//! Connecting to bangerd's socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_protocol::error::{ApiError, ErrorKind};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Body;

/// How long a full backlog may keep us out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts while the backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// No socket, or nobody behind it.
    Absent(PathBuf),
    /// The socket exists, but is not for this user.
    Denied(PathBuf),
    /// Somebody listens, but it went wrong.
    Failed(ApiError),
}

impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Absent(socket) => ApiError::new(
                ErrorKind::DaemonUnavailable,
                format!(
                    "bangerd is not running: nobody listens on {}",
                    socket.display()
                ),
            )
            .hint("start it with: banger daemon start"),
            ConnectError::Denied(socket) => ApiError::new(
                ErrorKind::PermissionDenied,
                format!("you may not use the socket {}", socket.display()),
            )
            .hint("become a member of the group it belongs to, or unset BANGER_ROOT"),
            ConnectError::Failed(error) => error,
        }
    }
}

/// Opens one HTTP/1.1 connection. The process behind it must be root's or the user's own, since
/// requests may carry credentials.
pub async fn connect(socket: &Path) -> Result<SendRequest<Body>, ConnectError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, open(socket))
        .await
        .map_err(|_| failed(socket, "its backlog stays full"))??;
    let peer = stream
        .peer_cred()
        .map_err(|error| failed(socket, &error.to_string()))?
        .uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(ConnectError::Failed(ApiError::new(
            ErrorKind::PermissionDenied,
            format!(
                "{} belongs to a process of user {peer}, who is neither root nor you",
                socket.display()
            ),
        )));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(socket, &error.to_string()))?;
    // Its errors reach the request that waits for the answer.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

async fn open(socket: &Path) -> Result<UnixStream, ConnectError> {
    loop {
        return match UnixStream::connect(socket).await {
            Ok(stream) => Ok(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(BACKLOG_PAUSE).await;
                    continue;
                }
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotADirectory => Err(ConnectError::Absent(socket.to_owned())),
                io::ErrorKind::PermissionDenied => Err(ConnectError::Denied(socket.to_owned())),
                io::ErrorKind::InvalidInput => Err(ConnectError::Failed(
                    ApiError::new(
                        ErrorKind::InvalidArgument,
                        format!(
                            "the socket's path is too long for Unix sockets: {}",
                            socket.display()
                        ),
                    )
                    .hint("use a shorter BANGER_ROOT: 90 bytes at most"),
                )),
                _ => Err(failed(socket, &error.to_string())),
            },
        };
    }
}

fn failed(socket: &Path, why: &str) -> ConnectError {
    ConnectError::Failed(ApiError::new(
        ErrorKind::DaemonUnavailable,
        format!("cannot connect to bangerd at {}: {why}", socket.display()),
    ))
}
