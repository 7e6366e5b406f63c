//! Serves whoever comes to the port, one host after the other.

use std::io;
use std::sync::Arc;

use banger_protocol::link::{Identity, serve};

use crate::agent::Agent;
use crate::port::Port;
use crate::serve::serve_stream;

/// Serves for ever. A host that goes away ends its streams, and nothing else.
pub async fn listen(agent: Arc<Agent>, mut port: Port, identity: Identity) -> io::Result<()> {
    loop {
        let handler = |incoming| {
            tokio::spawn(serve_stream(Arc::clone(&agent), incoming));
        };
        serve(&mut port, identity, handler).await?;
        port.changed().await?;
    }
}

/// A new identity for this boot.
pub fn identity() -> io::Result<Identity> {
    let mut boot_id = [0; 16];
    // 16 bytes come whole or not at all. Before the host has sent entropy the pool may not be
    // ready, and the id need not be secret, only new.
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    let count = rustix::rand::getrandom(&mut boot_id[..], flags)?;
    if count != boot_id.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Identity { boot_id })
}
