//! Which bangerd answers, and having one that does.
//!
//! ```text
//! BANGER_ROOT set   that one, started where it does not run
//! else              root's where its socket may be used; else the user's own, started where it
//!                   does not run (root's own is root's)
//! ```
//!
//! A daemon which a client started is replaced when it is older than what is installed; the VMs go
//! on and the new one adopts them. One that a service manager or a person started is only spoken of.

mod age;
mod last_words;
mod program;
mod start;

use std::path::PathBuf;

use banger_host::layout::{Layout, LayoutError};
use banger_protocol::api::operation::{OperationList, OperationState};
use banger_protocol::api::path;
use banger_protocol::build;
use banger_protocol::error::{ApiError, ErrorKind};
use hyper::Method;

use crate::client::{Client, ConnectError};
use crate::environment::Environment;
use crate::failure::tell;

pub use age::Verdict;
pub use start::{start, wait_until_gone};

/// A daemon that answers, or the places where one would.
pub enum Found {
    Running(Box<Client>),
    /// None answers; this is the one that may be started.
    Absent(Layout),
}

/// Looks for a daemon that answers and starts nothing.
pub async fn find(environment: &Environment) -> Result<Found, ApiError> {
    let candidates = Layout::candidates(&environment.layout, user()).map_err(no_layout)?;
    let last = candidates.len() - 1;
    for (index, layout) in candidates.into_iter().enumerate() {
        match Client::greet(&layout.socket()).await {
            Ok(client) => return Ok(Found::Running(Box::new(client))),
            // A system daemon that is not there or not for us is no daemon for us.
            Err(ConnectError::Absent(_) | ConnectError::Denied(_)) if index < last => {}
            Err(ConnectError::Absent(_)) => return Ok(Found::Absent(layout)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(no_layout(LayoutError::NoHome))
}

/// A daemon that answers and is not outdated, started or replaced where that is needed and allowed.
pub async fn ready(environment: &Environment) -> Result<Client, ApiError> {
    match find(environment).await? {
        Found::Running(client) => up_to_date(environment, *client).await,
        Found::Absent(layout) => {
            let client = start(environment, &layout).await?;
            tell(&format!(
                "banger: started bangerd (process {}, log {})\n",
                client.daemon().pid,
                client.daemon().log
            ));
            Ok(client)
        }
    }
}

/// The same daemon, or its replacement.
async fn up_to_date(environment: &Environment, client: Client) -> Result<Client, ApiError> {
    let installed = program::find(environment).ok();
    let layout = own_layout(environment)?;
    let own = layout.socket() == client.socket();
    let installed = installed.as_ref();
    match age::judge(&build::this_build(), installed, client.daemon(), own) {
        Verdict::Current => Ok(client),
        Verdict::Tell { reason, command } => {
            tell(&format!(
                "banger: {reason}\nhint: restart it with: {command}\n"
            ));
            Ok(client)
        }
        Verdict::Replace { reason } => {
            if is_busy(&client).await {
                tell(&format!(
                    "banger: {reason}; it is replaced once it has no work\n"
                ));
                return Ok(client);
            }
            tell(&format!("banger: {reason}; replacing it, VMs go on\n"));
            stop(&client).await?;
            start(environment, &layout).await
        }
    }
}

/// Another client's operation would be cancelled by a replacement.
async fn is_busy(client: &Client) -> bool {
    // One so old that it cannot answer is replaced whatever it does.
    client
        .get::<OperationList>(path::OPERATIONS)
        .await
        .is_ok_and(|list| {
            list.operations
                .iter()
                .any(|operation| operation.state == OperationState::Running)
        })
}

/// Stops a daemon and waits until it is gone.
pub async fn stop(client: &Client) -> Result<(), ApiError> {
    client.act(Method::POST, path::DAEMON_STOP).await?;
    wait_until_gone(client).await
}

/// The user whose daemon this is.
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user's own places.
pub fn own_layout(environment: &Environment) -> Result<Layout, ApiError> {
    Layout::own(&environment.layout, user()).map_err(no_layout)
}

/// The sockets a client of this user may try, best first.
pub fn sockets(environment: &Environment) -> Vec<PathBuf> {
    Layout::candidates(&environment.layout, user())
        .map(|layouts| layouts.iter().map(Layout::socket).collect())
        .unwrap_or_default()
}

fn no_layout(error: LayoutError) -> ApiError {
    ApiError::new(ErrorKind::InvalidArgument, error.to_string())
        .hint("set HOME, or BANGER_ROOT to a directory for all of banger's files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_place_the_variables_are_named() {
        for error in [LayoutError::NoHome, LayoutError::RelativeRoot("x".into())] {
            let error = no_layout(error);
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(
                error
                    .hint
                    .is_some_and(|hint| hint.contains("HOME") && hint.contains("BANGER_ROOT"))
            );
        }
    }
}
