//! One request from its first line to its answer: version, route, headers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use berth_api::ApiVersion;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, SERVER};
use hyper::{Method, StatusCode};

use crate::error::ApiError;
use crate::extract::decode;
use crate::hijack::IsHijack;
use crate::route::{Captures, Route, captures};

/// What every answer says about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// The engine's version, for the `Server` header.
    pub version: String,
    /// Whether experimental commands work.
    pub experimental: bool,
}

/// The API as a service, cheap to clone.
#[derive(Debug, Clone)]
pub struct App<S> {
    inner: Arc<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    state: S,
    routes: Vec<Route<S>>,
    headers: HeaderMap,
}

impl<S: Clone + Send + Sync + 'static> App<S> {
    pub(crate) fn new(state: S, routes: Vec<Route<S>>, info: &ServerInfo) -> Self {
        let server = format!("Docker/{} (linux)", info.version);
        let experimental = if info.experimental { "true" } else { "false" };
        let headers = HeaderMap::from_iter([
            (
                HeaderName::from_static("api-version"),
                HeaderValue::from_str(&ApiVersion::MAX.to_string())
                    .expect("digits and a dot are a header value"),
            ),
            (
                HeaderName::from_static("docker-experimental"),
                HeaderValue::from_static(experimental),
            ),
            (HeaderName::from_static("ostype"), HeaderValue::from_static("linux")),
            (
                SERVER,
                HeaderValue::from_str(&server)
                    .unwrap_or(HeaderValue::from_static("Docker (linux)")),
            ),
        ]);
        Self { inner: Arc::new(Inner { state, routes, headers }) }
    }

    /// Answers one request.
    ///
    /// The handler runs to its end even if the client leaves meanwhile, so that no operation stops
    /// half-way; its answer, and all that a streaming answer holds, is then dropped.
    pub async fn answer(self, request: Request<Body>) -> Response {
        match tokio::spawn(self.route(request)).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "handler failed");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                ApiError::new(status, "the server failed to answer this request").into_response()
            }
        }
    }

    fn route(self, mut request: Request<Body>) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        let path = decode(request.uri().path());
        let (version, path) = split_version(&path);
        let Some((route, found)) = self.find(request.method(), path) else {
            return Box::pin(async { ApiError::page_not_found().into_response() });
        };
        let endpoint = route.endpoint.clone();
        tracing::debug!(method = %request.method(), path, "request");
        Box::pin(async move {
            let mut response = match version.map_or(Ok(ApiVersion::MAX), ApiVersion::supported) {
                Err(error) => ApiError::from(error).into_response(),
                Ok(version) => {
                    request.extensions_mut().insert(version);
                    request.extensions_mut().insert(found);
                    endpoint.call(request, self.inner.state.clone()).await
                }
            };
            if response.extensions().get::<IsHijack>().is_none_or(|hijack| hijack.described) {
                for (name, value) in &self.inner.headers {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        })
    }

    fn find(&self, method: &Method, path: &str) -> Option<(&Route<S>, Captures)> {
        self.inner
            .routes
            .iter()
            .filter(|route| route.method == *method)
            .find_map(|route| Some((route, captures(route.path, path)?)))
    }
}

/// Takes `/v1.41` off a path. What does not look like a version is part of the path.
fn split_version(path: &str) -> (Option<ApiVersion>, &str) {
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        Some((Some(version.parse().ok()?), &rest[version.len()..]))
    });
    versioned.unwrap_or((None, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_split_off() {
        #[rustfmt::skip]
        let table = [
            ("/v1.41/info",     Some((1, 41)), "/info"),
            ("/v1.9/a/b",       Some((1, 9)),  "/a/b"),
            ("/info",           None,          "/info"),
            ("/volumes/v1.2/x", None,          "/volumes/v1.2/x"),
            ("/v1.x/info",      None,          "/v1.x/info"),
            ("/v1/info",        None,          "/v1/info"),
            ("/v1.41",          None,          "/v1.41"),
            ("/v1.41/",         Some((1, 41)), "/"),
        ];
        for (path, version, rest) in table {
            let version = version.map(|(major, minor)| ApiVersion::new(major, minor));
            assert_eq!(split_version(path), (version, rest), "{path}");
        }
    }
}
