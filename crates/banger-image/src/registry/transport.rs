//! The HTTP clients: which certificates, proxies and redirects they accept.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Url};

use crate::reference::is_loopback;
use crate::registry::FetchPolicy;

/// More redirects than any registry needs.
const MAX_REDIRECTS: usize = 10;

/// Clients shared by all pulls: connections are kept and used again.
///
/// They are made when first needed: reading the host's certificates takes some milliseconds.
pub(crate) struct Transport {
    connect_timeout: Duration,
    remote: OnceLock<Client>,
    local: OnceLock<Client>,
}

impl Transport {
    pub fn new(policy: &FetchPolicy) -> Transport {
        Transport {
            connect_timeout: policy.connect_timeout,
            remote: OnceLock::new(),
            local: OnceLock::new(),
        }
    }

    /// For registries elsewhere: the environment's proxies are used, and no redirect leads to
    /// plain HTTP.
    pub fn remote(&self) -> Result<Client, reqwest::Error> {
        made_once(&self.remote, || {
            self.builder().redirect(redirects(remote_may_lead_to))
        })
    }

    /// For registries on this host: no proxy stands between, whatever the environment says.
    pub fn local(&self) -> Result<Client, reqwest::Error> {
        made_once(&self.local, || {
            self.builder()
                .no_proxy()
                .redirect(redirects(local_may_lead_to))
        })
    }

    fn builder(&self) -> ClientBuilder {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .referer(false)
    }
}

fn made_once(
    slot: &OnceLock<Client>,
    builder: impl FnOnce() -> ClientBuilder,
) -> Result<Client, reqwest::Error> {
    if let Some(client) = slot.get() {
        return Ok(client.clone());
    }
    let client = builder().build()?;
    Ok(slot.get_or_init(|| client).clone())
}

/// reqwest itself drops the `Authorization` header where a redirect leaves the host.
fn redirects(may_lead_to: fn(&Url) -> bool) -> Policy {
    Policy::custom(move |attempt: Attempt<'_>| {
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if may_lead_to(attempt.url()) {
            attempt.follow()
        } else {
            attempt.error("a redirect leads to plain HTTP")
        }
    })
}

/// Whether a connection failed because of the other side's certificate.
pub(crate) fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // An io::Error gives as its source that of what it wraps, and so skips the thing itself.
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

pub(crate) fn remote_may_lead_to(url: &Url) -> bool {
    url.scheme() == "https"
}

pub(crate) fn local_may_lead_to(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(is_loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registry_on_this_host_may_lead_to_plain_http() {
        for (url, remote, local) in [
            ("https://cdn.example.com/x", true, true),
            ("http://cdn.example.com/x", false, false),
            ("http://127.0.0.1:5000/x", false, true),
            ("http://[::1]:5000/x", false, true),
            ("http://localhost/x", false, true),
            ("http://169.254.169.254/latest", false, false),
            ("ftp://127.0.0.1/x", false, false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(remote_may_lead_to(&url), remote, "{url}");
            assert_eq!(local_may_lead_to(&url), local, "{url}");
        }
    }
}
