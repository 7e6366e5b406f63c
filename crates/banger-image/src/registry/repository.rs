//! Requests to one repository: manifests and blobs.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};

use crate::digest::Digest;
use crate::error::{Corruption, ImageError, InvalidImage, TransportError};
use crate::manifest::{ACCEPTED, MAX_DOCUMENT};
use crate::reference::Reference;
use crate::registry::authorization::{Plan, bearer, plan};
use crate::registry::backoff::retry_after;
use crate::registry::transport::is_untrusted;
use crate::registry::{Backoff, Credentials, Failure, FetchPolicy, Transport, challenge};

/// Most bytes of an error message or a token that are looked at.
const MAX_SMALL_ANSWER: u64 = 256 * 1024;
/// How long a registry on this host may take to shake hands before it is taken for a plain one.
const LOCAL_TLS_TIMEOUT: Duration = Duration::from_secs(2);

/// One repository, and what is known about how to be let in. Made anew for each pull, so that
/// nobody is let in with another's credentials.
pub(crate) struct Repository {
    client: Client,
    policy: FetchPolicy,
    /// As people write it.
    registry: String,
    /// Host and port that are asked.
    host: String,
    path: String,
    local: bool,
    credentials: Credentials,
    /// `https`, or for a registry on this host what it turned out to speak.
    scheme: OnceCell<&'static str>,
    authorization: Mutex<Authorization>,
}

#[derive(Clone, Default)]
struct Authorization {
    header: Option<HeaderValue>,
    /// Grows with each new header, so that one of many refused requests gets a new one for all.
    generation: u64,
}

/// A manifest or index as it was served.
pub(crate) struct ServedManifest {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub media_type: Option<String>,
}

/// The bytes of a blob from `start` on.
pub(crate) struct BlobBody {
    pub start: u64,
    response: Response,
    read_timeout: Duration,
}

impl BlobBody {
    /// Size of the whole blob as far as the answer's own length tells.
    pub fn end(&self) -> Option<u64> {
        let length = self.response.content_length()?;
        Some(self.start.saturating_add(length))
    }

    /// The next piece; `None` at the end of the answer, which may be short of the blob's.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        within(self.read_timeout, self.response.chunk()).await
    }
}

impl Repository {
    pub fn open(
        transport: &Transport,
        policy: &FetchPolicy,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Arc<Repository>, ImageError> {
        let local = reference.is_loopback();
        let client = if local {
            transport.local()
        } else {
            transport.remote()
        };
        let client = client.map_err(|error| ImageError::Unreachable {
            registry: reference.domain().to_owned(),
            what: reference.to_string(),
            source: TransportError::Tls(error),
        })?;
        Ok(Arc::new(Repository {
            client,
            policy: policy.clone(),
            registry: reference.domain().to_owned(),
            host: reference.registry().to_owned(),
            path: reference.repository().to_owned(),
            local,
            credentials,
            scheme: OnceCell::new(),
            authorization: Mutex::default(),
        }))
    }

    pub fn policy(&self) -> &FetchPolicy {
        &self.policy
    }

    /// Fetches a manifest by tag or digest; `expected` is what its digest must be.
    pub async fn manifest(
        &self,
        version: &str,
        expected: Option<&Digest>,
    ) -> Result<ServedManifest, ImageError> {
        let separator = if version.contains(':') { '@' } else { ':' };
        let what = format!("{}{separator}{version}", self.path);
        let mut backoff = Backoff::new(&self.policy);
        let served = loop {
            match self.manifest_once(version, &what).await {
                Ok(served) => break served,
                Err(failure) => backoff.wait(failure).await?,
            }
        };
        match expected {
            Some(expected) if *expected != served.digest => Err(ImageError::corrupt(
                format!("manifest {what}"),
                Corruption::Digest {
                    expected: *expected,
                    found: served.digest,
                },
            )),
            _ => Ok(served),
        }
    }

    async fn manifest_once(&self, version: &str, what: &str) -> Result<ServedManifest, Failure> {
        let path = format!("manifests/{version}");
        let response = self.get(&path, &[(ACCEPT, ACCEPTED)], what).await?;
        let media_type = text_of(response.headers(), &CONTENT_TYPE);
        let bytes = self
            .read_small(response, MAX_DOCUMENT)
            .await
            .map_err(|error| Failure::transient(self.unreachable(what, error)))?
            .ok_or_else(|| {
                Failure::fatal(ImageError::invalid(
                    what,
                    InvalidImage::Document {
                        document: "the manifest",
                        what: format!("longer than {MAX_DOCUMENT} bytes"),
                    },
                ))
            })?;
        Ok(ServedManifest {
            digest: Digest::of(&bytes),
            bytes,
            media_type,
        })
    }

    /// Asks for a blob from `offset` on; the answer may begin at 0 all the same.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobBody, Failure> {
        let what = format!("blob {digest} of {}", self.path);
        let range = format!("bytes={offset}-");
        // Asked for without compression: the bytes must be those of the digest.
        let mut headers = vec![(reqwest::header::ACCEPT_ENCODING, "identity")];
        if offset > 0 {
            headers.push((RANGE, range.as_str()));
        }
        let response = self
            .get(&format!("blobs/{digest}"), &headers, &what)
            .await?;
        let start = match (
            response.status(),
            text_of(response.headers(), &CONTENT_RANGE),
        ) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) if range_start(&range) == Some(offset) => {
                offset
            }
            (StatusCode::PARTIAL_CONTENT, range) => {
                let range = range.unwrap_or_default();
                return Err(Failure::fatal(self.unreachable(
                    &what,
                    TransportError::Protocol(format!("bytes {range:?} for {offset}-")),
                )));
            }
            _ => 0,
        };
        Ok(BlobBody {
            start,
            response,
            read_timeout: self.policy.read_timeout,
        })
    }

    pub fn unreachable(&self, what: &str, source: TransportError) -> ImageError {
        ImageError::Unreachable {
            registry: self.registry.clone(),
            what: what.to_owned(),
            source,
        }
    }

    /// One authorised request, its answer's status judged.
    async fn get(
        &self,
        path: &str,
        headers: &[(reqwest::header::HeaderName, &str)],
        what: &str,
    ) -> Result<Response, Failure> {
        let scheme = self.scheme().await;
        let url = format!("{scheme}://{}/v2/{}/{path}", self.host, self.path);
        let mut refused = false;
        loop {
            let authorization = self.authorization.lock().await.clone();
            let mut request = self.client.get(&url);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(header) = &authorization.header {
                request = request.header(AUTHORIZATION, header);
            }
            let response = self.send(request, what).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return self.judge(response, what).await;
            }
            // A token may have run out meanwhile, so the first refusal gets a new one.
            if refused {
                return Err(self.refusal(response, what).await);
            }
            refused = true;
            self.authorize(response, authorization.generation, what)
                .await?;
        }
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        what: &str,
    ) -> Result<Response, Failure> {
        within(self.policy.read_timeout, request.send())
            .await
            .map_err(|error| {
                // A redirect that is not followed is not followed the next time either.
                let transient = match &error {
                    TransportError::Connection(error) => {
                        !error.is_redirect() && !error.is_builder()
                    }
                    _ => true,
                };
                Failure {
                    error: self.unreachable(what, error),
                    transient,
                    retry_after: None,
                }
            })
    }

    async fn judge(&self, response: Response, what: &str) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = text_of(response.headers(), &RETRY_AFTER)
            .and_then(|header| retry_after(&header, SystemTime::now()));
        let transient = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        let error = match status {
            StatusCode::FORBIDDEN => return Err(self.refusal(response, what).await),
            StatusCode::NOT_FOUND => ImageError::NotFound {
                what: what.to_owned(),
                place: self.registry.clone(),
            },
            StatusCode::TOO_MANY_REQUESTS => ImageError::RateLimited {
                registry: self.registry.clone(),
                retry_after: wait,
            },
            status => self.unreachable(
                what,
                TransportError::Status {
                    status: status.as_u16(),
                    detail: self.detail(response).await,
                },
            ),
        };
        Err(Failure {
            error,
            transient,
            retry_after: wait,
        })
    }

    /// Gets a new `Authorization` header, unless another request has got one since `generation`.
    async fn authorize(
        &self,
        response: Response,
        generation: u64,
        what: &str,
    ) -> Result<(), Failure> {
        let mut authorization = self.authorization.lock().await;
        if authorization.generation != generation {
            return Ok(());
        }
        let challenges: Vec<_> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let challenge = challenge::choose(challenges);
        let plan = plan(
            &self.client,
            challenge,
            &self.credentials,
            &self.path,
            self.local,
        )
        .map_err(|reason| Failure::fatal(self.unauthorized(what, reason)))?;
        let header = match plan {
            Plan::Header(header) => header,
            Plan::Ask(request) => self.ask_for_token(*request, what).await?,
        };
        *authorization = Authorization {
            header: Some(header),
            generation: generation + 1,
        };
        Ok(())
    }

    async fn ask_for_token(
        &self,
        request: reqwest::RequestBuilder,
        what: &str,
    ) -> Result<HeaderValue, Failure> {
        let response = self.send(request, what).await?;
        let status = response.status();
        if status.is_client_error()
            && !matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            )
        {
            return Err(self.refusal(response, what).await);
        }
        let response = self.judge(response, what).await?;
        let answer = self
            .read_small(response, MAX_SMALL_ANSWER)
            .await
            .map_err(|error| Failure::transient(self.unreachable(what, error)))?
            .unwrap_or_default();
        bearer(&answer).map_err(|reason| {
            Failure::fatal(self.unreachable(what, TransportError::Protocol(reason)))
        })
    }

    async fn refusal(&self, response: Response, what: &str) -> Failure {
        let detail = self.detail(response).await;
        Failure::fatal(self.unauthorized(what, detail))
    }

    fn unauthorized(&self, what: &str, detail: String) -> ImageError {
        ImageError::Unauthorized {
            registry: self.registry.clone(),
            what: what.to_owned(),
            detail,
            with_credentials: self.credentials != Credentials::Anonymous,
        }
    }

    /// docker's rule for registries on this host: HTTPS when they speak it, else HTTP.
    async fn scheme(&self) -> &'static str {
        if !self.local {
            return "https";
        }
        self.scheme
            .get_or_init(async || {
                let probe = self.client.get(format!("https://{}/v2/", self.host));
                match within(LOCAL_TLS_TIMEOUT, probe.send()).await {
                    Ok(_) => "https",
                    // It speaks TLS; that we do not trust it is what the user must be told.
                    Err(TransportError::Connection(error)) if is_untrusted(&error) => "https",
                    Err(_) => "http",
                }
            })
            .await
    }

    /// A whole body, or `None` when it is longer than `max`.
    async fn read_small(
        &self,
        mut response: Response,
        max: u64,
    ) -> Result<Option<Vec<u8>>, TransportError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = within(self.policy.read_timeout, response.chunk()).await? {
            if (bytes.len() + chunk.len()) as u64 > max {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// What the registry says in its own words: the messages of its error document.
    async fn detail(&self, response: Response) -> String {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            errors: Vec<Entry>,
            #[serde(default, alias = "message")]
            details: Option<String>,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let Ok(Some(body)) = self.read_small(response, MAX_SMALL_ANSWER).await else {
            return String::new();
        };
        let Ok(document) = serde_json::from_slice::<Document>(&body) else {
            return String::new();
        };
        let words: Vec<_> = document
            .errors
            .into_iter()
            .map(|entry| {
                if entry.message.is_empty() {
                    entry.code
                } else {
                    entry.message
                }
            })
            .chain(document.details)
            .filter(|message| !message.is_empty())
            .collect();
        printable(&words.join("; "))
    }
}

/// A registry's text may end up on a terminal.
fn printable(text: &str) -> String {
    const MAX: usize = 300;
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX)
        .collect()
}

async fn within<T>(
    timeout: Duration,
    future: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(timeout, future).await {
        Ok(outcome) => outcome.map_err(|error| TransportError::Connection(error.without_url())),
        Err(_) => Err(TransportError::Timeout(timeout)),
    }
}

fn text_of(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// First byte of `bytes 100-199/200`.
fn range_start(content_range: &str) -> Option<u64> {
    let (start, _) = content_range
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?;
    start.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes 100-199/200", Some(100)),
            (" bytes 0-0/*", Some(0)),
            ("bytes */200", None),
            ("bytes -5", None),
            ("octets 1-2/3", None),
            ("", None),
        ] {
            assert_eq!(range_start(text), expected, "{text}");
        }
    }

    #[test]
    fn a_registrys_words_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\n"), "a [31mb  ");
        assert_eq!(printable(&"x".repeat(5000)).len(), 300);
    }
}
