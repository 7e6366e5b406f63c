//! Talks to one repository of one registry (the distribution API, version 2), read only.
//!
//! ```text
//!  request ──► 401 + challenge ──► token or password ──► request again ──► answer
//!     ▲                                                                      │
//!     └────────────── back-off, Retry-After ◄── 408, 429, 5xx, broken line ◄─┘
//! ```
//!
//! The client is our own over `reqwest`, since what is needed is exactly what ready clients leave
//! out: answers bounded in size, `Retry-After`, the reason of a refusal, and a say in redirects.
//!
//! Limits: HTTPS always, but to a registry on this host, which may speak plain HTTP, as docker
//! has it; credentials are given by the caller and never read here; no mirrors, no client
//! certificates, no pushing.

mod authorization;
mod backoff;
mod challenge;
mod repository;
mod resolve;
mod transport;

use std::fmt;
use std::time::Duration;

pub(crate) use backoff::{Backoff, Failure};
pub(crate) use repository::Repository;
pub(crate) use resolve::{check_document, choose_entry, resolve};
pub(crate) use transport::Transport;

/// What a registry is told about who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Anonymous,
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, exchanged for an access token.
    IdentityToken {
        token: String,
    },
}

/// Never shows what it holds.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Password { .. } => "Password",
            Credentials::IdentityToken { .. } => "IdentityToken",
        })
    }
}

/// How patient and how greedy fetching is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPolicy {
    /// Blobs fetched at once, by all pulls together.
    pub parallel: usize,
    /// Requests for one thing before it is given up; progress starts the count anew.
    pub attempts: u32,
    /// Wait before the second attempt, doubled for each further one.
    pub first_delay: Duration,
    pub longest_delay: Duration,
    /// Longest wait that a registry may ask for; more is an error at once.
    pub longest_retry_after: Duration,
    pub connect_timeout: Duration,
    /// Longest silence while a registry answers.
    pub read_timeout: Duration,
}

impl Default for FetchPolicy {
    fn default() -> Self {
        FetchPolicy {
            parallel: 3,
            attempts: 5,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(8),
            longest_retry_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
        }
    }
}
