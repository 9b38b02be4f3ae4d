//! What handlers take from a request, read as Docker reads it.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use berth_api::filters::Filters;
use berth_api::go::{self, GoJsonError};
use berth_api::{ApiVersion, DockerBool};
use berth_engine::registry::{Credentials, KnownRegistries};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::route::Captures;

/// The largest JSON body that is read.
const JSON_MAX: usize = 4 << 20;

/// The first capture of the route: any text, for a name that cannot exist is simply unknown.
#[derive(Debug)]
pub(crate) struct Name(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let first = parts.extensions.get::<Captures>().and_then(|found| found.0.first());
        first.cloned().map(Self).ok_or_else(ApiError::page_not_found)
    }
}

/// The API version that the client speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version(pub(crate) ApiVersion);

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(parts.extensions.get::<ApiVersion>().copied().unwrap_or_default()))
    }
}

/// Who the client is at a registry. As in Docker, a header that cannot be read is nobody's.
#[derive(Debug)]
pub(crate) struct RegistryAuth(pub(crate) Credentials);

impl<S: Sync> FromRequestParts<S> for RegistryAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get("x-registry-auth").and_then(|text| text.to_str().ok());
        let read = Credentials::from_header(header.unwrap_or_default());
        Ok(Self(read.unwrap_or_else(|error| {
            tracing::debug!(%error, "credentials not understood");
            Credentials::default()
        })))
    }
}

/// Who the client is at several registries, read as leniently.
#[derive(Debug)]
pub(crate) struct RegistryConfig(pub(crate) KnownRegistries);

impl<S: Sync> FromRequestParts<S> for RegistryConfig {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get("x-registry-config").and_then(|text| text.to_str().ok());
        let read = KnownRegistries::from_header(header.unwrap_or_default());
        Ok(Self(read.unwrap_or_else(|error| {
            tracing::debug!(%error, "credentials not understood");
            KnownRegistries::default()
        })))
    }
}

/// The query string.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// Every value of a repeatable parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value; empty when absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// The first value, unless it is absent or empty.
    pub(crate) fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// A boolean.
    pub(crate) fn flag(&self, name: &str) -> bool {
        DockerBool::parse(self.text(name)).0
    }

    /// A boolean that is true unless the parameter says otherwise.
    pub(crate) fn flag_or_true(&self, name: &str) -> bool {
        self.all(name).next().is_none_or(|text| DockerBool::parse(text).0)
    }

    /// A whole number, unless it is absent or empty.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = || format!("strconv.Atoi: parsing {text:?}: invalid syntax");
        text.parse().map(Some).map_err(|_err| ApiError::invalid(bad()))
    }

    /// A point in time, as `<unix seconds>[.<fraction>]`, unless it is absent or empty.
    pub(crate) fn time(&self, name: &str) -> Result<Option<berth_types::Timestamp>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        Ok(Some(berth_types::duration::parse_unix(text)?))
    }

    /// The filters, of which the endpoint knows these keys.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        Ok(Filters::parse(self.text("filters"))?.accept(known)?)
    }
}

/// Undoes percent encoding; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.split_first_chunk::<2>().filter(|_| first == b'%');
        let value = digits.and_then(|(digits, after)| Some((hex_byte(*digits)?, after)));
        let (byte, after) = value.unwrap_or((first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).unwrap_or_else(|_invalid| text.to_owned())
}

fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// A JSON body, read as Go reads it. No body at all is the default value.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = json_bytes(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        go::from_slice(&body).map(Self).map_err(invalid_json)
    }
}

/// The bytes of a body that must be JSON; empty when there is none.
pub(crate) async fn json_bytes(request: Request) -> Result<Bytes, ApiError> {
    check_media_type(request.headers())?;
    bounded(request.into_body()).await
}

/// What is wrong with a JSON body, in Docker's words.
pub(crate) fn invalid_json(error: GoJsonError) -> ApiError {
    match error {
        GoJsonError::Trailing => error.into(),
        GoJsonError::Eof
        | GoJsonError::Syntax(_)
        | GoJsonError::Type { .. }
        | GoJsonError::Value(_) => ApiError::invalid(format!("invalid JSON: {error}")),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let has_body = headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|n| n != "0");
    if given.is_empty() && !has_body {
        return Ok(());
    }
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::invalid(if media_type.is_empty() {
        format!("malformed Content-Type header ({given}): mime: no media type")
    } else {
        format!("unsupported Content-Type header ({given}): must be 'application/json'")
    }))
}

async fn bounded(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, JSON_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            let words = "http: request body too large";
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words))
        }
        Err(error) => Err(ApiError::invalid(format!("cannot read the request body: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings() {
        let params =
            Params::parse("a=1&b=&a=2&c=%2Fx%20y+z&d&filters=%7B%22x%22%3A%5B%5D%7D&e=%zz");
        assert_eq!(params.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((params.text("a"), params.text("c")), ("1", "/x y z"));
        assert_eq!((params.optional("b"), params.optional("z")), (None, None));
        assert_eq!((params.flag("a"), params.flag("b"), params.flag("d")), (true, false, false));
        assert_eq!((params.flag_or_true("z"), params.flag_or_true("b")), (true, false));
        assert_eq!(params.text("e"), "%zz");
        assert_eq!(params.integer("a").unwrap(), Some(1));
        let refused = ApiError::invalid("strconv.Atoi: parsing \"/x y z\": invalid syntax");
        assert_eq!(params.integer("c"), Err(refused));
        assert_eq!(params.filters(&["y"]), Err(ApiError::invalid("invalid filter 'x'")));
        assert!(params.filters(&["x"]).is_ok());
    }
}
