//! A real HTTP/1.1 server on a real socket. What it answers is the test's; the greeting is its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use banger_protocol::api::daemon::DaemonInfo;
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use serde::Serialize;
use tempfile::TempDir;

use super::{run, samples};

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub body: Vec<u8>,
}

impl Request {
    /// `METHOD PATH`, for comparing.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Writing = dyn FnOnce(&mut dyn Write) + Send;

/// What the fake answers.
pub enum Answer {
    Json(u16, Vec<u8>),
    /// Bytes as they are written, and the end of the connection.
    Stream(Box<Writing>),
    /// `101`, then whatever the test does with the connection.
    Upgrade(Box<dyn FnOnce(UnixStream) + Send>),
    /// No answer at all.
    HangUp,
}

impl Answer {
    pub fn ok(value: &impl Serialize) -> Answer {
        Answer::Json(200, serde_json::to_vec(value).unwrap())
    }

    pub fn error(error: &ApiError) -> Answer {
        Answer::Json(error.kind.http_status(), serde_json::to_vec(error).unwrap())
    }

    pub fn not_found(what: &str) -> Answer {
        Answer::error(&ApiError::new(
            ErrorKind::NotFound,
            format!("there is no {what}"),
        ))
    }

    pub fn stream(write: impl FnOnce(&mut dyn Write) + Send + 'static) -> Answer {
        Answer::Stream(Box::new(write))
    }

    /// NDJSON.
    pub fn lines<T: Serialize>(values: &[T]) -> Answer {
        let lines: String = values.iter().map(line).collect();
        Answer::stream(move |out| {
            // A client that left needs no more.
            let _ = out.write_all(lines.as_bytes());
        })
    }

    pub fn upgrade(act: impl FnOnce(UnixStream) + Send + 'static) -> Answer {
        Answer::Upgrade(Box::new(act))
    }
}

/// One line of NDJSON.
pub fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap() + "\n"
}

type Route = dyn Fn(&Request) -> Answer + Send + Sync;

/// A fake bangerd and its root directory.
pub struct Fake {
    root: TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// One that runs: an up-to-date daemon of this user's.
    pub fn new(route: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Fake {
        let fake = Fake::absent();
        fake.serve(samples::daemon(fake.root()), route);
        fake
    }

    /// Only the root directory, where nobody listens.
    pub fn absent() -> Fake {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run", "state"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        Fake {
            root,
            requests: Arc::default(),
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Listens, greets as `info`, and answers everything else by `route`. It stops listening when
    /// it is told to stop.
    pub fn serve(
        &self,
        info: DaemonInfo,
        route: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) {
        let socket = self.root.path().join("run/bangerd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = self.requests.clone();
        let route: Arc<Route> = Arc::new(route);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (info, route, requests) = (info.clone(), route.clone(), requests.clone());
                let socket = socket.clone();
                // A client that goes away in the middle ends its connection and nothing else.
                thread::spawn(move || {
                    let greeted = move |request: &Request| match request.line().as_str() {
                        "GET /v1/daemon" => Answer::ok(&info),
                        line => {
                            requests.lock().unwrap().push(request.clone());
                            if line == format!("POST {}", path::DAEMON_STOP) {
                                let _ = std::fs::remove_file(&socket);
                            }
                            route(request)
                        }
                    };
                    serve(stream.unwrap(), &greeted)
                });
            }
        });
    }

    /// All requests but greetings, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        run::banger(self.root.path(), arguments)
    }

    pub fn banger(&self, arguments: &[&str]) -> run::Run {
        run::Run::of(&mut self.command(arguments))
    }
}

fn serve(stream: UnixStream, route: &Route) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let mut stream = reader.get_ref();
        match route(&request) {
            Answer::Json(status, body) => {
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\
                     content-length: {length}\r\n\r\n"
                )?;
                stream.write_all(&body)?;
            }
            Answer::Stream(body) => {
                write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                body(&mut stream);
                return Ok(());
            }
            Answer::Upgrade(act) => {
                write!(
                    stream,
                    "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: {}\r\n{}: 1\r\n\r\n",
                    banger_protocol::api::exec::UPGRADE,
                    banger_protocol::api::exec::GENERATION_HEADER
                )?;
                act(reader.into_inner());
                return Ok(());
            }
            Answer::HangUp => return Ok(()),
        }
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = String::new();
    if reader.read_line(&mut head)? == 0 {
        return Ok(None);
    }
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "transfer-encoding" => chunked = value == "chunked",
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            reader.take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else {
        reader.take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Request { method, path, body }))
}
