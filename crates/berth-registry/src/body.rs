//! Bodies of answers: small ones as a whole, and errors in Docker's words.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::challenge;
use crate::error::{ErrorCode, RegistryError};
use crate::transport;

/// How much of an error's body is read.
const ERROR_MOST: u64 = 256 << 10;

/// A body that must be small, read whole within `patience`.
pub(crate) async fn whole(
    response: Response,
    what: &'static str,
    most: u64,
    patience: Duration,
) -> Result<Vec<u8>, RegistryError> {
    let too_long = || RegistryError::TooLong { what, most };
    if response.content_length().is_some_and(|length| length > most) {
        return Err(too_long());
    }
    let url = response.url().clone();
    let read = async {
        let mut response = response;
        let mut body = Vec::new();
        loop {
            let piece = response.chunk().await;
            match piece.map_err(|error| transport::failed("Get", &url, &error))? {
                None => return Ok(body),
                Some(piece) if body.len() as u64 + piece.len() as u64 > most => {
                    return Err(too_long());
                }
                Some(piece) => body.extend_from_slice(&piece),
            }
        }
    };
    let seconds = patience.as_secs();
    tokio::time::timeout(patience, read)
        .await
        .unwrap_or(Err(RegistryError::Stalled { bytes: most, seconds }))
}

/// Reads a body that says nothing, if it is small: the connection may be used again then.
pub(crate) async fn skip(response: Response, patience: Duration) {
    if let Err(error) = whole(response, "a request", ERROR_MOST, patience).await {
        tracing::debug!(%error, "a connection is not used again");
    }
}

/// Why an answer that is no success is none.
pub(crate) async fn error(response: Response, patience: Duration) -> RegistryError {
    let status = response.status();
    let retry_after = retry_after(&response);
    if !status.is_client_error() {
        return RegistryError::Status { status: spoken(status) };
    }
    let from_challenge = challenge::all(response.headers()).into_iter().find_map(|challenge| {
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let (code, message) = match parameter("error").filter(|_| challenge.scheme == "bearer")? {
            "invalid_token" => ("UNAUTHORIZED", "authentication required"),
            "insufficient_scope" => ("DENIED", "requested access to the resource is denied"),
            _ => return None,
        };
        Some(ErrorCode::new(code, parameter("error_description").unwrap_or(message)))
    });
    let body = match whole(response, "a request", ERROR_MOST, patience).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let from_body = parse(status, &body);
    let mut errors = match (from_challenge, from_body) {
        (Some(first), Ok(more)) => [vec![first], more].concat(),
        (Some(first), Err(_)) => vec![first],
        (None, Ok(errors)) => errors,
        (None, Err(_)) if status == StatusCode::UNAUTHORIZED => {
            vec![ErrorCode::new("UNAUTHORIZED", "authentication required")]
        }
        (None, Err(_)) if status == StatusCode::TOO_MANY_REQUESTS => {
            vec![ErrorCode::new("TOOMANYREQUESTS", "too many requests")]
        }
        (None, Err(error)) => return error,
    };
    for error in &mut errors {
        error.retry_after = retry_after;
    }
    RegistryError::Said(errors)
}

/// The errors in a body.
fn parse(status: StatusCode, body: &[u8]) -> Result<Vec<ErrorCode>, RegistryError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        errors: Option<Vec<ErrorCode>>,
    }
    let unreadable = |reason: String| RegistryError::Unreadable {
        status: status.as_u16(),
        reason,
        body: String::from_utf8_lossy(body).into_owned(),
    };
    let parsed: Body =
        serde_json::from_slice(body).map_err(|error| unreadable(error.to_string()))?;
    if let Some(details) = parsed.details.filter(|details| !details.is_empty()) {
        let code = match status {
            StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        return Ok(vec![ErrorCode::new(code, &details)]);
    }
    match parsed.errors {
        Some(errors) if !errors.is_empty() => Ok(errors),
        _ => Err(unreadable("no error details found in HTTP response body".to_owned())),
    }
}

/// How long the registry asks to be left alone: seconds, or a date.
fn retry_after(response: &Response) -> Option<u64> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    u64::try_from(then.as_second() - jiff::Timestamp::now().as_second()).ok()
}

/// `404 Not Found`.
pub(crate) fn spoken(status: StatusCode) -> String {
    let words = status.canonical_reason().unwrap_or_default();
    format!("{} {words}", status.as_u16()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_errors_are_read_as_docker_reads_them() {
        #[rustfmt::skip]
        let table = [
            (404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"2"}}]}"#, "manifest unknown: manifest unknown"),
            (401, r#"{"details":"incorrect username or password"}"#, "unauthorized: incorrect username or password"),
            (400, r#"{"details":"x"}"#,       "unknown: x"),
            (404, r#"{"errors":[]}"#,         r#"error parsing HTTP 404 response body: no error details found in HTTP response body: "{\"errors\":[]}""#),
        ];
        for (status, body, expected) in table {
            let status = StatusCode::from_u16(status).unwrap();
            let error = match parse(status, body.as_bytes()) {
                Ok(errors) => RegistryError::Said(errors),
                Err(error) => error,
            };
            assert_eq!(error.to_string(), expected);
        }
    }
}
