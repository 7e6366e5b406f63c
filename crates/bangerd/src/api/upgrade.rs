//! Turning an HTTP connection into a byte pipe.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use banger_protocol::api::exec::{GENERATION_HEADER, UPGRADE as PROTOCOL};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::failure::Failure;
use crate::exec::GuestExec;

/// A request that asked for the upgrade to exec frames.
pub struct ExecUpgrade(OnUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for ExecUpgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let asked = holds(&parts.headers, CONNECTION.as_str(), "upgrade")
            && holds(&parts.headers, UPGRADE.as_str(), PROTOCOL);
        match parts.extensions.remove::<OnUpgrade>() {
            Some(upgrade) if asked => Ok(ExecUpgrade(upgrade)),
            _ => Err(Failure::invalid(format!(
                "this path answers only requests with connection: upgrade and upgrade: {PROTOCOL}"
            ))
            .with_status(StatusCode::UPGRADE_REQUIRED)),
        }
    }
}

/// Whether one of the comma-separated words of a header is `word`.
fn holds(headers: &HeaderMap, name: &str, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}

impl ExecUpgrade {
    /// Answers `101` and joins the client to the guest's process once the connection is ours.
    pub fn join(self, guest: GuestExec) -> Response {
        let generation = guest.generation;
        tokio::spawn(async move {
            let end = match self.0.await {
                Ok(upgraded) => guest.join(TokioIo::new(upgraded)).await,
                Err(error) => {
                    debug!(%error, "the client went away before the upgrade");
                    // To the guest that is a client which hangs up at once.
                    guest.join(tokio::io::empty()).await
                }
            };
            debug!(?end, "joined client ended");
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        *response.body_mut() = Body::empty();
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        headers.insert(GENERATION_HEADER, HeaderValue::from(generation));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_headers() {
        let mut headers = HeaderMap::new();
        headers.append("connection", "keep-alive, Upgrade".parse().unwrap());
        assert!(holds(&headers, "connection", "upgrade"));
        assert!(!holds(&headers, "connection", "upgra"));
        assert!(!holds(&headers, "upgrade", PROTOCOL));
        headers.append("upgrade", "websocket".parse().unwrap());
        headers.append("upgrade", PROTOCOL.parse().unwrap());
        assert!(holds(&headers, "upgrade", PROTOCOL));
    }
}
