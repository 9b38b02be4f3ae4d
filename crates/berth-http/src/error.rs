//! Errors as clients see them. The only place that knows status codes.

use axum::response::{IntoResponse, Response};
use berth_types::kind::chain;
use berth_types::{Classify, ErrorKind};
use hyper::StatusCode;
use serde::Serialize;

use crate::answer::json_response;

/// An error answer: a status and Docker's `{"message": …}`.
///
/// Any error that knows its kind becomes one, so handlers use `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// An error that only the edge can find.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400 with these words.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 for a path that nothing answers.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }
}

impl<E: Classify> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self { status: status_of(error.kind()), message: chain(&error) }
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            message: &'a str,
        }

        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status.is_server_error() {
            tracing::error!(
                status = self.status.as_u16(),
                message = self.message,
                "request failed"
            );
        } else {
            tracing::debug!(
                status = self.status.as_u16(),
                message = self.message,
                "request refused"
            );
        }
        json_response(self.status, &Body { message: &self.message })
    }
}
