//! A client of the socket: one connection a request, as the CLI's.

use std::path::PathBuf;

use banger_protocol::api::exec::UPGRADE;
use banger_protocol::api::operation::{Operation, OperationEvent};
use banger_protocol::api::{VERSION, VERSION_HEADER};
use banger_protocol::error::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::CONTENT_TYPE;
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

pub type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

impl Client {
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    pub fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header(VERSION_HEADER, VERSION)
            .header("host", "bangerd")
            .body(body)
            .unwrap()
    }

    pub fn json_request(&self, method: &str, path: &str, body: &Value) -> Request<Body> {
        let mut request = self.request(method, path, full(body.to_string()));
        request
            .headers_mut()
            .insert(CONTENT_TYPE, "application/json".parse().unwrap());
        request
    }

    pub async fn whole(&self, request: Request<Body>) -> Answer {
        let response = self.send(request).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.whole(self.request("GET", path, full(""))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.whole(self.request("DELETE", path, full(""))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.whole(self.json_request("POST", path, &body)).await
    }

    /// A POST without a body.
    pub async fn poke(&self, path: &str) -> Answer {
        self.whole(self.request("POST", path, full(""))).await
    }

    /// Imports an image of one small file.
    pub async fn import(&self, name: &str, source: &str, archive: Vec<u8>) -> Answer {
        let path = format!("/v1/images/import?kind=rootfs&name={name}&source={source}");
        self.whole(self.request("POST", &path, full(archive))).await
    }

    /// Turns the connection into a process's.
    pub async fn upgrade(&self, path: &str, body: &Value) -> Result<TokioIo<Upgraded>, Answer> {
        let mut request = self.json_request("POST", path, body);
        request
            .headers_mut()
            .insert("connection", "upgrade".parse().unwrap());
        request
            .headers_mut()
            .insert("upgrade", UPGRADE.parse().unwrap());
        let response = self.send(request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            assert_eq!(response.headers()["upgrade"], UPGRADE);
            return Ok(TokioIo::new(hyper::upgrade::on(response).await.unwrap()));
        }
        let (parts, body) = response.into_parts();
        Err(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        })
    }
}

impl Answer {
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {} {}", self.status, self.text());
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn ok<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self.json()
    }

    #[track_caller]
    pub fn error(&self) -> ApiError {
        assert!(!self.status.is_success(), "{} {}", self.status, self.text());
        assert_eq!(self.headers[CONTENT_TYPE], "application/json");
        self.json()
    }

    /// The lines of an operation's stream.
    #[track_caller]
    pub fn events(&self) -> Vec<OperationEvent> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// How the operation ended.
    #[track_caller]
    pub fn ended(&self) -> Operation {
        match self.events().pop() {
            Some(OperationEvent::Ended { operation }) => operation,
            other => panic!("not an end: {other:?}"),
        }
    }
}

/// Reads lines of a stream as they come.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    pub fn new(response: Response<Incoming>) -> Lines {
        assert_eq!(response.status(), StatusCode::OK);
        Lines {
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    pub async fn next(&mut self) -> Option<OperationEvent> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
