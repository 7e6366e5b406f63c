//! A registry that misbehaves on purpose: HTTP by hand, so that it can break its rules.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use banger_image::digest::Digest;

use crate::images::{OCI_MANIFEST, TestImage};

/// One request, as the script sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    /// How often this path was asked for before.
    pub earlier: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// First byte asked for by a `Range` header.
    pub fn offset(&self) -> usize {
        self.header("range")
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    }
}

/// An answer, and how it ends.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub cut: Option<usize>,
    /// Bytes of the body after which nothing more comes, for this long.
    pub stall: Option<(usize, Duration)>,
    /// It does not begin before so many others want to.
    pub together: Option<Arc<Barrier>>,
    /// How long it takes before it begins.
    pub delay: Duration,
    pub content_length: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            stall: None,
            together: None,
            delay: Duration::ZERO,
            content_length: true,
        }
    }

    fn pause(&self) {
        if let Some(barrier) = &self.together {
            barrier.wait();
        }
        std::thread::sleep(self.delay);
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Script = dyn Fn(&Request, Reply) -> Reply + Send + Sync;

/// A server on a port of its own. Each request gets the answer of an honest registry, which the
/// script may change.
pub struct Fake {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    documents: Mutex<HashMap<String, (String, Vec<u8>)>>,
    log: Mutex<Vec<Request>>,
    stopped: AtomicBool,
    busy: AtomicUsize,
    busiest: AtomicUsize,
}

impl Fake {
    pub fn honest() -> Fake {
        Fake::new(|_, honest| honest)
    }

    pub fn new(script: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            documents: Mutex::default(),
            log: Mutex::default(),
            stopped: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
        });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for connection in listener.incoming() {
                    if shared.stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // A client that goes away is part of the game.
                    std::thread::spawn(move || connection.and_then(|c| shared.serve(c)));
                }
            }
        });
        Fake { port, shared }
    }

    /// Serves an image under `name:tag` and by digest.
    pub fn put(&self, name: &str, tag: &str, image: &TestImage) {
        self.put_manifest(name, tag, OCI_MANIFEST, &image.manifest);
        let mut documents = self.shared.documents.lock().unwrap();
        for (digest, bytes) in &image.blobs {
            let path = format!("/v2/{name}/blobs/{digest}");
            documents.insert(path, ("application/octet-stream".into(), bytes.clone()));
        }
    }

    pub fn put_manifest(&self, name: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut documents = self.shared.documents.lock().unwrap();
        for version in [tag.to_owned(), Digest::of(bytes).to_string()] {
            let path = format!("/v2/{name}/manifests/{version}");
            documents.insert(path, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    pub fn log(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }

    /// How often blobs were asked for, by path.
    pub fn blob_requests(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for request in self.log().into_iter().filter(Request::is_blob) {
            *counts.entry(request.path).or_default() += 1;
        }
        counts
    }

    /// Most blobs that were waited for at once.
    pub fn busiest(&self) -> usize {
        self.shared.busiest.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let Some(mut request) = read_request(&mut connection)? else {
            return Ok(());
        };
        let reply = {
            let mut log = self.log.lock().unwrap();
            request.earlier = log.iter().filter(|r| r.path == request.path).count();
            log.push(request.clone());
            (self.script)(&request, self.honest(&request))
        };
        if request.is_blob() {
            let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
            self.busiest.fetch_max(busy, Ordering::SeqCst);
            reply.pause();
            // Before the last byte: who has that may ask for the next blob at once.
            self.busy.fetch_sub(1, Ordering::SeqCst);
        } else {
            reply.pause();
        }
        write_reply(&mut connection, &reply)
    }

    fn honest(&self, request: &Request) -> Reply {
        if request.path == "/v2/" {
            return Reply::new(200, "{}");
        }
        let documents = self.documents.lock().unwrap();
        let Some((media_type, bytes)) = documents.get(&request.path) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return Reply::new(404, body);
        };
        let offset = request.offset();
        if offset == 0 {
            return Reply::new(200, bytes.clone()).header("content-type", media_type);
        }
        let (last, total) = (bytes.len() - 1, bytes.len());
        Reply::new(206, &bytes[offset..])
            .header("content-type", media_type)
            .header("content-range", &format!("bytes {offset}-{last}/{total}"))
    }
}

/// `None` for whoever wants TLS, which a plain registry cuts off.
fn read_request(connection: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        let count = connection.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..count]);
        if count == 0 || bytes[0] == 0x16 {
            return Ok(None);
        }
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        let count = connection.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        body.extend_from_slice(&buffer[..count]);
    }
    Ok(Some(Request {
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        earlier: 0,
    }))
}

fn write_reply(connection: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    if reply.content_length {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    if let Some((count, pause)) = reply.stall {
        let (first, rest) = reply.body.split_at(count.min(reply.body.len()));
        connection.write_all(first)?;
        std::thread::sleep(pause);
        return connection.write_all(rest);
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    connection.write_all(&reply.body[..end])
}
