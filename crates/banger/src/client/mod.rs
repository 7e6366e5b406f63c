//! The client of bangerd's API.
//!
//! One connection per request over the Unix socket; the connection of the greeting serves the
//! first one. Failures arrive as [`ApiError`], whether bangerd sent them or never answered.
//!
//! Limits: it starts nothing (see [`crate::daemon`]), and it bounds the wait for the greeting but
//! not for answers, since some requests wait on purpose.

mod connection;
mod events;
mod upload;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::api::exec::{ExecRequest, GENERATION_HEADER, UPGRADE};
use banger_protocol::api::operation::OperationEvent;
use banger_protocol::api::{self, path};
use banger_protocol::error::{ApiError, ErrorKind};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

pub use connection::{ConnectError, connect};
pub use events::Events;
pub use upload::{Body, Upload, upload};

/// How long a daemon that accepted a connection may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a greeting that breaks off is tried.
const GREETINGS: usize = 4;
const GREETING_PAUSE: Duration = Duration::from_millis(20);
/// Longest JSON answer that is read into memory.
const MAX_ANSWER: usize = 64 << 20;

/// A daemon that has said who it is.
pub struct Client {
    socket: PathBuf,
    daemon: DaemonInfo,
    greeted: RefCell<Option<SendRequest<Body>>>,
}

/// An upgraded connection: exec frames both ways.
pub struct Upgraded {
    pub stream: UnixStream,
    /// Bytes which arrived right behind the response head.
    pub leftover: Bytes,
    /// Generation of the agent that answers.
    pub generation: u32,
}

impl Client {
    /// Connects and asks who answers.
    ///
    /// # Errors
    /// [`ConnectError`], where [`ConnectError::Absent`] means that nobody listens.
    pub async fn greet(socket: &Path) -> Result<Client, ConnectError> {
        let greeting = async {
            for _ in 1..GREETINGS {
                match greeting(socket).await {
                    // One that was just killed or stopped breaks off what waited for it; the next
                    // attempt finds nobody, or its successor.
                    Err(ConnectError::Failed(error))
                        if error.kind == ErrorKind::DaemonUnavailable =>
                    {
                        tokio::time::sleep(GREETING_PAUSE).await;
                    }
                    greeted => return greeted,
                }
            }
            greeting(socket).await
        };
        match tokio::time::timeout(GREETING_TIMEOUT, greeting).await {
            Ok(Ok((sender, daemon))) => Ok(Client {
                socket: socket.to_owned(),
                daemon,
                greeted: RefCell::new(Some(sender)),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Failed(
                ApiError::new(
                    ErrorKind::DaemonUnavailable,
                    format!(
                        "bangerd at {} accepts connections but does not answer",
                        socket.display()
                    ),
                )
                .hint(format!(
                    "look at its log; this names the process, which may have to be killed: fuser {}",
                    socket.display()
                )),
            )),
        }
    }

    /// The daemon that answers.
    pub fn daemon(&self) -> &DaemonInfo {
        &self.daemon
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A request without a body, answered with JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = request(Method::GET, path, Body::empty(), None)?;
        json(self.exchange(request).await?).await
    }

    /// The same, not decoded yet: for what borrows from it.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        let request = request(Method::GET, path, Body::empty(), None)?;
        bounded(success(self.exchange(request).await?).await?).await
    }

    /// A request with a JSON body or none, answered with JSON.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ApiError> {
        let request = json_request(method, path, body)?;
        json(self.exchange(request).await?).await
    }

    /// A request whose answer has nothing to say but that it worked.
    pub async fn act(&self, method: Method, path: &str) -> Result<(), ApiError> {
        let request = request(method, path, Body::empty(), None)?;
        success(self.exchange(request).await?).await.map(drop)
    }

    /// A request answered with bytes as they come.
    pub async fn stream(&self, path: &str) -> Result<Incoming, ApiError> {
        let request = request(Method::GET, path, Body::empty(), None)?;
        Ok(success(self.exchange(request).await?).await?.into_body())
    }

    /// A long action, or the events of one: answered with NDJSON.
    pub async fn events(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Events<OperationEvent>, ApiError> {
        let request = json_request(method, path, body)?;
        let response = success(self.exchange(request).await?).await?;
        Ok(Events::new(response.into_body()))
    }

    /// A long action whose body is a stream of bytes.
    pub async fn upload(&self, path: &str, body: Body) -> Result<Events<OperationEvent>, ApiError> {
        let request = request(Method::POST, path, body, Some("application/octet-stream"))?;
        let response = success(self.exchange(request).await?).await?;
        Ok(Events::new(response.into_body()))
    }

    /// A request that turns its connection into exec frames.
    pub async fn upgrade(&self, path: &str, body: &ExecRequest) -> Result<Upgraded, ApiError> {
        let mut request = json_request(Method::POST, path, Some(body))?;
        let headers = request.headers_mut();
        headers.insert(
            header::CONNECTION,
            header::HeaderValue::from_static("upgrade"),
        );
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(UPGRADE));
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            success(response).await?;
            return Err(unexpected("bangerd answered an exec without upgrading"));
        }
        let generation = response
            .headers()
            .get(GENERATION_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let upgraded = hyper::upgrade::on(response).await.map_err(lost)?;
        let parts = upgraded
            .downcast::<hyper_util::rt::TokioIo<UnixStream>>()
            .map_err(|_| unexpected("the upgraded connection is of another kind"))?;
        Ok(Upgraded {
            stream: parts.io.into_inner(),
            leftover: parts.read_buf,
            generation,
        })
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, ApiError> {
        let greeted = self.greeted.borrow_mut().take();
        if let Some(mut sender) = greeted
            && sender.ready().await.is_ok()
        {
            return exchange(&mut sender, request).await;
        }
        let mut sender = connect(&self.socket).await?;
        exchange(&mut sender, request).await
    }
}

async fn greeting(socket: &Path) -> Result<(SendRequest<Body>, DaemonInfo), ConnectError> {
    let mut sender = connect(socket).await?;
    let request =
        request(Method::GET, path::DAEMON, Body::empty(), None).map_err(ConnectError::Failed)?;
    let response = exchange(&mut sender, request)
        .await
        .map_err(ConnectError::Failed)?;
    let daemon = json(response).await.map_err(ConnectError::Failed)?;
    Ok((sender, daemon))
}

/// A path with a query; values are percent-encoded.
pub fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            text.push(separator);
            text.push_str(name);
            text.push('=');
            text.push_str(&path::fill("{}", &[value]));
            separator = '&';
        }
    }
    text
}

fn request(
    method: Method,
    path: &str,
    body: Body,
    content_type: Option<&'static str>,
) -> Result<Request<Body>, ApiError> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "banger")
        .header(api::VERSION_HEADER, api::VERSION);
    if let Some(content_type) = content_type {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    builder
        .body(body)
        .map_err(|error| unexpected(&format!("cannot form a request for {path}: {error}")))
}

fn json_request(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Request<Body>, ApiError> {
    match body {
        None => request(method, path, Body::empty(), None),
        Some(body) => {
            let bytes = serde_json::to_vec(body)
                .map_err(|error| unexpected(&format!("cannot encode a request: {error}")))?;
            request(
                method,
                path,
                Body::full(bytes.into()),
                Some("application/json"),
            )
        }
    }
}

async fn exchange(
    sender: &mut SendRequest<Body>,
    request: Request<Body>,
) -> Result<Response<Incoming>, ApiError> {
    sender.send_request(request).await.map_err(lost)
}

/// The response where it is a success, else the error in its body.
async fn success(response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(response).await?;
    Err(serde_json::from_slice(&body)
        .unwrap_or_else(|_| unexpected(&format!("bangerd answered {status} and no reason"))))
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ApiError> {
    decode(&bounded(success(response).await?).await?)
}

/// Reads an answer.
///
/// # Errors
/// [`ErrorKind::VersionMismatch`] where it is none that this CLI knows.
pub fn decode<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(answer).map_err(|error| {
        ApiError::new(
            ErrorKind::VersionMismatch,
            format!("cannot understand bangerd's answer: {error}"),
        )
        .hint("restart it with: banger daemon stop && banger daemon start")
    })
}

async fn bounded(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    http_body_util::Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            ApiError::new(
                ErrorKind::DaemonUnavailable,
                format!("cannot read bangerd's answer: {error}"),
            )
        })
}

/// The connection broke in the middle of an exchange.
fn lost(error: hyper::Error) -> ApiError {
    ApiError::new(
        ErrorKind::DaemonUnavailable,
        format!("the connection to bangerd broke: {error}"),
    )
    .hint("see how it is with: banger daemon status")
}

fn unexpected(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            with_query(
                "/x",
                &[
                    ("a", None),
                    ("b", Some("1 &?".into())),
                    ("c", Some("z".into()))
                ]
            ),
            "/x?b=1%20%26%3F&c=z"
        );
        assert_eq!(with_query("/x", &[("a", None)]), "/x");
    }
}
