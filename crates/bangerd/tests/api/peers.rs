//! Others on the host are refused, even where the socket's mode would let them in.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use banger_protocol::error::{ApiError, ErrorKind};

use crate::support::World;

const NOBODY: libc::uid_t = 65534;

#[tokio::test]
async fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root");
        return;
    }
    let world = World::new();
    let daemon = world.start().await;
    // As a careless administrator would.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(world.root.path(), 0o755);
    open(&daemon.layout.runtime, 0o755);
    open(&daemon.layout.socket(), 0o666);
    let socket = daemon.layout.socket();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // SAFETY: the raw call changes this thread alone, which ends soon after.
        let dropped = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(dropped, 0);
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .write_all(b"GET /v1/daemon HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        tell.send(answer).unwrap();
    });
    let answer = told.await.expect("the thread succeeds");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let error: ApiError = serde_json::from_str(body).unwrap();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    daemon.stop().await;
}
