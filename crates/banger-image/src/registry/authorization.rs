//! From a challenge and credentials to an `Authorization` header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde::Deserialize;

use crate::registry::Credentials;
use crate::registry::challenge::Challenge;
use crate::registry::transport::{local_may_lead_to, remote_may_lead_to};

/// What token servers know us as.
const CLIENT_ID: &str = "banger";

/// How an `Authorization` header is had.
pub(crate) enum Plan {
    /// It is known.
    Header(HeaderValue),
    /// A token server has to be asked.
    Ask(Box<reqwest::RequestBuilder>),
}

/// A token server's answer; the two names mean the same.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Decides how a challenge is met; the error says why it cannot be.
///
/// `local` is whether the registry is on this host: only such a one may name a token server that
/// is asked over plain HTTP.
pub(crate) fn plan(
    client: &Client,
    challenge: Option<Challenge>,
    credentials: &Credentials,
    repository: &str,
    local: bool,
) -> Result<Plan, String> {
    match (challenge, credentials) {
        (None, _) => Err("it does not say which credentials it wants".to_owned()),
        (Some(Challenge::Basic), Credentials::Anonymous) => Err("it wants a login".to_owned()),
        (Some(Challenge::Basic), Credentials::IdentityToken { .. }) => {
            Err("it wants a user name and a password, and an identity token was given".to_owned())
        }
        (Some(Challenge::Basic), Credentials::Password { username, password }) => {
            Ok(Plan::Header(basic(username, password)?))
        }
        (
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }),
            credentials,
        ) => {
            let realm = token_server(&realm, local)?;
            let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
            let request = token_request(client, realm, service.as_deref(), &scope, credentials)?;
            Ok(Plan::Ask(Box::new(request)))
        }
    }
}

fn token_server(realm: &str, local: bool) -> Result<Url, String> {
    let unusable = || format!("its token server {:?} is not usable", shortened(realm));
    let url: Url = realm.parse().map_err(|_| unusable())?;
    let allowed = if local {
        local_may_lead_to
    } else {
        remote_may_lead_to
    };
    if allowed(&url) {
        Ok(url)
    } else {
        Err(unusable())
    }
}

fn token_request(
    client: &Client,
    mut realm: Url,
    service: Option<&str>,
    scope: &str,
    credentials: &Credentials,
) -> Result<reqwest::RequestBuilder, String> {
    if let Credentials::IdentityToken { token } = credentials {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("scope", scope),
            ("refresh_token", token),
        ];
        form.extend(service.map(|service| ("service", service)));
        // The query of a URL and the body of a form are encoded alike.
        let encoded = Url::parse_with_params("http://form", form).map_err(|e| e.to_string())?;
        return Ok(client
            .post(realm)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(encoded.query().unwrap_or_default().to_owned()));
    }
    realm
        .query_pairs_mut()
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("scope", scope);
    let request = client.get(realm);
    Ok(match credentials {
        Credentials::Password { username, password } => {
            request.header("authorization", basic(username, password)?)
        }
        _ => request,
    })
}

/// The header for a token server's answer.
pub(crate) fn bearer(answer: &[u8]) -> Result<HeaderValue, String> {
    let answer: TokenAnswer = serde_json::from_slice(answer)
        .map_err(|_| "its token server's answer is not JSON".to_owned())?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or("its token server's answer holds no token")?;
    secret(&format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, String> {
    secret(&format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    ))
}

/// A header value that no debug output shows.
fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| "its token holds unusable bytes".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_servers_are_asked_over_https_but_on_this_host() {
        for (realm, local, fine) in [
            ("https://auth.example.com/token", false, true),
            ("http://auth.example.com/token", false, false),
            ("http://auth.example.com/token", true, false),
            ("http://127.0.0.1:1/token", false, false),
            ("http://127.0.0.1:1/token", true, true),
            ("file:///etc/passwd", true, false),
            ("not a url", true, false),
        ] {
            assert_eq!(token_server(realm, local).is_ok(), fine, "{realm} {local}");
        }
    }

    #[test]
    fn answers_without_a_token_are_refused() {
        for (answer, expected) in [
            (r#"{"token":"abc","expires_in":300}"#, Some("Bearer abc")),
            (r#"{"access_token":"abc"}"#, Some("Bearer abc")),
            (r#"{"token":"","access_token":""}"#, None),
            (r#"{"token":"a\nb"}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let found = bearer(answer.as_bytes()).ok();
            assert_eq!(
                found.as_ref().map(HeaderValue::as_bytes),
                expected.map(str::as_bytes)
            );
            assert!(found.is_none_or(|value| value.is_sensitive()));
        }
    }
}
