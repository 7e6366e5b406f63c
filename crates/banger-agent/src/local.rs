//! The agent's socket inside the guest: whether it lives, and that the machine ends.
//!
//! Its name is abstract, so that it needs no file system and survives a change of root. One line
//! is asked and one answered; only root may say that the machine ends.

use std::io::{self, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::agent::Down;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::agent::Agent;

const NAME: &[u8] = b"banger-agent";

const PING: &[u8] = b"ping\n";
const POWER_OFF: &[u8] = b"down poweroff\n";
const REBOOT: &[u8] = b"down reboot\n";
const OK: &[u8] = b"ok\n";

/// Longest a peer may take; longest the agent may.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last event has this long to reach the host before the agent is killed.
const FLUSH: Duration = Duration::from_millis(50);

/// Connections served at a time: any process of the guest may connect.
const MAX_PEERS: usize = 16;

pub fn bind(name: &[u8]) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

pub fn bind_default() -> io::Result<UnixListener> {
    bind(NAME)
}

pub async fn listen(agent: Arc<Agent>, listener: UnixListener) {
    let peers = Arc::new(tokio::sync::Semaphore::new(MAX_PEERS));
    loop {
        let Ok(permit) = Arc::clone(&peers).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = Arc::clone(&agent);
                tokio::spawn(async move {
                    // A peer that says nothing, or leaves, gets nothing.
                    let _ = tokio::time::timeout(PATIENCE, answer(&agent, stream)).await;
                    drop(permit);
                });
            }
            // Out of descriptors, say: for a while nobody is served.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(agent: &Agent, mut stream: UnixStream) -> io::Result<()> {
    let root = stream.peer_cred()?.uid() == 0;
    let mut question = Vec::new();
    while !question.ends_with(b"\n") && question.len() < 64 {
        question.push(stream.read_u8().await?);
    }
    match &question[..] {
        PING => {}
        POWER_OFF if root => announce(agent, Down::PowerOff).await,
        REBOOT if root => announce(agent, Down::Reboot).await,
        _ => return stream.write_all(b"no\n").await,
    }
    stream.write_all(OK).await
}

async fn announce(agent: &Agent, how: Down) {
    agent.announce_down(how);
    tokio::time::sleep(FLUSH).await;
}

fn ask(name: &[u8], question: &[u8]) -> io::Result<()> {
    let mut stream = StdStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(question)?;
    let mut reply = Vec::new();
    stream.take(64).read_to_end(&mut reply)?;
    if reply == OK {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Whether the agent answers.
pub fn check() -> io::Result<()> {
    ask(NAME, PING)
}

/// Lets the agent tell the host; one that does not answer cannot.
pub fn announce_down(how: Down) {
    let question = match how {
        Down::PowerOff => POWER_OFF,
        Down::Reboot => REBOOT,
    };
    if let Err(error) = ask(NAME, question) {
        crate::log::warn(&format!("the agent does not answer: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Machine;
    use crate::reaper::Reaper;
    use banger_protocol::agent::{AgentError, AgentEvent, BootConfig, BootReport};

    struct NoMachine;
    impl Machine for NoMachine {
        fn boot(&mut self, _: &BootConfig) -> Result<BootReport, AgentError> {
            unreachable!("nobody boots it")
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_answers_and_passes_on_the_end() {
        let name = format!("banger-agent-test-{}", std::process::id()).into_bytes();
        let reaper = Arc::new(Reaper::new(false));
        let (agent, _downs) = Agent::new(Box::new(NoMachine), reaper);
        let mut events = agent.events.subscribe();
        tokio::spawn(listen(agent, bind(&name).unwrap()));
        let ask = |question: &'static [u8]| {
            let name = name.clone();
            tokio::task::spawn_blocking(move || super::ask(&name, question))
        };
        ask(PING).await.unwrap().unwrap();
        assert!(ask(b"nonsense\n").await.unwrap().is_err());
        // Whoever runs the tests may not be root.
        let allowed = rustix::process::geteuid().is_root();
        assert_eq!(ask(REBOOT).await.unwrap().is_ok(), allowed);
        if allowed {
            let event = events.recv().await.unwrap();
            assert_eq!(event, AgentEvent::GoingDown { how: Down::Reboot });
        }
    }
}
