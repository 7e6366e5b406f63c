//! How a failure leaves the API: one JSON error with the status of its kind.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use banger_protocol::error::{ApiError, ErrorKind};
use utoipa::IntoResponses;

/// An [`ApiError`] as a response.
#[derive(Debug)]
pub struct Failure {
    error: ApiError,
    /// Set where HTTP has a more exact word than the error's kind.
    status: Option<StatusCode>,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Failure {
        ApiError::new(ErrorKind::InvalidArgument, message).into()
    }

    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Failure {
        self.status = Some(status);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: &str) -> Failure {
        self.error = self.error.hint(hint);
        self
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure {
            error,
            status: None,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.error.kind.http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        });
        if status.is_server_error() {
            tracing::error!(%status, kind = ?self.error.kind, error = %self.error, "request failed");
        }
        (status, Json(self.error)).into_response()
    }
}

/// What any request may get, documented for every path by [`super::document`].
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum Always {
    /// A parameter or the body is malformed, or the API version is not spoken here.
    #[response(status = 400)]
    Invalid(ApiError),
    /// The peer is neither the daemon's user nor root nor a member of its group.
    #[response(status = 403)]
    Forbidden(ApiError),
    /// A fault of banger itself.
    #[response(status = 500)]
    Internal(ApiError),
}

/// What a request with a JSON body may get.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum WithBody {
    /// The body is larger than 1 MiB.
    #[response(status = 413)]
    TooLarge(ApiError),
    /// The body is not declared as `application/json`.
    #[response(status = 415)]
    MediaType(ApiError),
}

/// What a request that names something may get.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum Lookup {
    /// Something that is named does not exist.
    #[response(status = 404)]
    NotFound(ApiError),
}

/// What a request for one VM may get.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum VmLookup {
    /// It does not exist.
    #[response(status = 404)]
    NotFound(ApiError),
    /// The prefix names more than one VM, or the VM's state does not allow this.
    #[response(status = 409)]
    Conflict(ApiError),
}

/// What a request that starts an operation may get before it runs.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum Starting {
    /// A name is taken, or bangerd is stopping.
    #[response(status = 409)]
    Conflict(ApiError),
    /// The body is larger than 1 MiB, or too many operations are running.
    #[response(status = 413)]
    TooLarge(ApiError),
}

/// What a question to a guest may get.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum Guest {
    /// A bounded wait ran out.
    #[response(status = 408)]
    Timeout(ApiError),
    /// The request is larger than 1 MiB or than the guest takes, or as many clients are joined to its
    /// processes as may be.
    #[response(status = 413)]
    TooLarge(ApiError),
    /// The guest or its agent cannot do it.
    #[response(status = 422)]
    Unsupported(ApiError),
    /// The machine or its agent does not answer.
    #[response(status = 424)]
    Unreachable(ApiError),
}

/// What a request that should upgrade its connection may get.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub enum Upgrading {
    /// The request does not ask for `upgrade: banger-exec`.
    #[response(status = 426)]
    Required(ApiError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_its_status_unless_http_knows_better() {
        let not_found = ApiError::new(ErrorKind::NotFound, "no VM web");
        let response = Failure::from(not_found).into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["content-type"], "application/json");
        let response = Failure::invalid("x")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .into_response();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
