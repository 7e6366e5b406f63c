//! The host's side of a request.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{AgentError, AgentReply, OpenRequest};
use crate::link::{Link, LinkError, LinkStream, is_link_lost};

/// Longest reply line.
pub const REPLY_LIMIT: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the guest link does not answer")]
    Link(#[source] LinkError),
    #[error("the guest link was lost before the agent answered")]
    Lost(#[source] io::Error),
    #[error("the agent gave up the request")]
    GivenUp(#[source] io::Error),
    #[error("the agent ended the stream without an answer")]
    NoAnswer,
    #[error("the agent's answer cannot be understood")]
    Malformed(#[source] serde_json::Error),
    #[error("the request cannot be encoded")]
    Request(#[source] serde_json::Error),
    #[error("the agent refused")]
    Agent(#[source] AgentError),
}

/// Opens a stream for `request` and reads the reply. What follows it is on the stream.
pub async fn ask<T: DeserializeOwned>(
    link: &Link,
    request: &OpenRequest,
) -> Result<(T, LinkStream), AskError> {
    let request = serde_json::to_vec(request).map_err(AskError::Request)?;
    let mut stream = link.open(&request).await.map_err(AskError::Link)?;
    let reply = read_reply(&mut stream).await?;
    Ok((reply, stream))
}

/// Reads the reply on a stream that was opened by hand.
pub async fn read_reply<T: DeserializeOwned>(stream: &mut LinkStream) -> Result<T, AskError> {
    let line = match stream.read_line(REPLY_LIMIT).await {
        Ok(Some(line)) => line,
        Ok(None) => return Err(AskError::NoAnswer),
        Err(error) if is_link_lost(&error) => return Err(AskError::Lost(error)),
        Err(error) => return Err(AskError::GivenUp(error)),
    };
    match serde_json::from_slice(&line).map_err(AskError::Malformed)? {
        AgentReply::Ok(reply) => Ok(reply),
        AgentReply::Error(error) => Err(AskError::Agent(error)),
    }
}

impl<T: Serialize> AgentReply<T> {
    /// The reply as it is sent: one line.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_else(|_| {
            br#"{"error":{"kind":"other","message":"the reply cannot be encoded"}}"#.to_vec()
        });
        line.push(b'\n');
        line
    }
}
