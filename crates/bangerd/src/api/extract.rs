//! What handlers take out of requests. Unlike axum's own extractors these answer every bad request
//! with a JSON error, and hold the limits of the API.

use axum::body::{Body, Bytes};
use axum::extract::path::ErrorKind as PathErrorKind;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use banger_protocol::error::{ApiError, ErrorKind};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use utoipa::ToSchema;

use super::failure::Failure;

/// Longest JSON body.
pub const MAX_JSON: usize = 1 << 20;

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        if !is_json(request.headers()) {
            return Err(Failure::invalid(
                "the request's body must be declared as application/json",
            )
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = whole(request.into_body()).await?;
        serde_json::from_slice(&bytes)
            .map(JsonBody)
            .map_err(|error| Failure::invalid(format!("the request's body is invalid: {error}")))
    }
}

async fn whole(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_JSON).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorKind::TooLarge,
            format!("the request's body is larger than {MAX_JSON} bytes"),
        )
        .hint("ask for less at a time")
        .into()),
        Err(error) => Err(Failure::invalid(format!(
            "the request's body cannot be read: {error}"
        ))),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// The query.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Parameters(parameters)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => Err(Failure::invalid(
                format!("the query is invalid: {}", bounded(&source_text(&error))),
            )),
            Err(other) => Err(Failure::invalid(other.body_text())),
        }
    }
}

/// The variable parts of the path.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Segments(segments)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                // Ours says all there is to say; around it axum puts "Invalid URL".
                Err(Failure::invalid(bounded(&match error.into_kind() {
                    PathErrorKind::Message(message)
                    | PathErrorKind::DeserializeError { message, .. } => message,
                    other => other.to_string(),
                })))
            }
            Err(other) => {
                Err(ApiError::new(ErrorKind::Internal, bounded(&other.body_text())).into())
            }
        }
    }
}

/// The innermost cause: axum's own text only repeats what kind of thing failed.
fn source_text(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// An answer must not carry all of someone's input back.
fn bounded(text: &str) -> String {
    text.chars().take(300).collect()
}

/// How a VM is named in a path: its name, its id, or the beginning of its id.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9-]{1,63}$", min_length = 1, max_length = 63)]
pub struct VmReference(String);

impl VmReference {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for VmReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fits = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(VmReference(text))
        } else {
            Err(de::Error::custom(
                "a VM is named by its name, its id or the beginning of its id: 1 to 63 of a-z, 0-9 and '-'",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonp", false),
            ("text/plain", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn vm_references() {
        let parse = |text: &str| serde_json::from_value::<VmReference>(text.into());
        for good in ["web", "0a1b", "a-b"] {
            assert_eq!(parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "a/b", "a b", "a\n", &"a".repeat(64)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
