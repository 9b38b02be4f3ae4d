//! Paths, methods and what answers them.
//!
//! Names of images and volumes contain slashes, so a capture takes everything up to the last place
//! where the rest of the pattern still fits: `/images/{name}/json` finds `a/b:tag` in
//! `/images/a/b:tag/json`. The first route of the list that fits answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use hyper::{Method, StatusCode};

use crate::error::ApiError;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Erased<S> = Arc<dyn Fn(Request, S) -> Answer + Send + Sync>;

/// One line of the list of routes.
#[derive(Clone)]
pub(crate) struct Route<S> {
    pub(crate) method: Method,
    /// With captures in braces.
    pub(crate) path: &'static str,
    pub(crate) endpoint: Endpoint<S>,
}

/// What answers.
#[derive(Clone)]
pub(crate) enum Endpoint<S> {
    /// A handler.
    Handler(Erased<S>),
    /// 501: documented by Docker, not built here.
    NotBuilt(&'static str),
    /// 503: this engine is in no swarm. Holds the words.
    NoSwarm(&'static str),
}

impl<S: Send + Sync + 'static> Route<S> {
    /// A handler with axum's extractors.
    pub(crate) fn new<H, T>(method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Sync,
        T: 'static,
    {
        let erased =
            move |request, state| -> Answer { Box::pin(handler.clone().call(request, state)) };
        Self { method, path, endpoint: Endpoint::Handler(Arc::new(erased)) }
    }

    pub(crate) fn get<H: Handler<T, S> + Sync, T: 'static>(path: &'static str, h: H) -> Self {
        Self::new(Method::GET, path, h)
    }

    pub(crate) fn head<H: Handler<T, S> + Sync, T: 'static>(path: &'static str, h: H) -> Self {
        Self::new(Method::HEAD, path, h)
    }

    pub(crate) fn post<H: Handler<T, S> + Sync, T: 'static>(path: &'static str, h: H) -> Self {
        Self::new(Method::POST, path, h)
    }

    pub(crate) fn put<H: Handler<T, S> + Sync, T: 'static>(path: &'static str, h: H) -> Self {
        Self::new(Method::PUT, path, h)
    }

    pub(crate) fn delete<H: Handler<T, S> + Sync, T: 'static>(path: &'static str, h: H) -> Self {
        Self::new(Method::DELETE, path, h)
    }

    /// 501 `<what> not supported by this version of berth`; `what` ends with its verb.
    pub(crate) fn not_built(method: Method, path: &'static str, what: &'static str) -> Self {
        Self { method, path, endpoint: Endpoint::NotBuilt(what) }
    }

    /// 503 with these words.
    pub(crate) fn no_swarm(method: Method, path: &'static str, words: &'static str) -> Self {
        Self { method, path, endpoint: Endpoint::NoSwarm(words) }
    }
}

impl<S> fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl<S> Endpoint<S> {
    pub(crate) async fn call(&self, request: Request, state: S) -> Response {
        match self {
            Self::Handler(handler) => handler(request, state).await,
            Self::NotBuilt(what) => {
                let words = format!("{what} not supported by this version of berth");
                ApiError::new(StatusCode::NOT_IMPLEMENTED, words).into_response()
            }
            Self::NoSwarm(words) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, *words).into_response()
            }
        }
    }
}

/// What the captures of a pattern hold, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Captures(pub(crate) Vec<String>);

/// Matches a decoded path against a pattern.
pub(crate) fn captures(pattern: &str, path: &str) -> Option<Captures> {
    let mut found = Vec::new();
    fits(pattern, path, &mut found).then_some(Captures(found))
}

fn fits(pattern: &str, path: &str, found: &mut Vec<String>) -> bool {
    let Some((literal, rest)) = pattern.split_once('{') else { return pattern == path };
    let Some(path) = path.strip_prefix(literal) else { return false };
    let pattern = rest.split_once('}').map_or("", |(_, after)| after);
    let ends = (0..=path.len()).rev().filter(|end| path.is_char_boundary(*end));
    for end in ends {
        found.push(path[..end].to_owned());
        if fits(pattern, &path[end..], found) {
            return true;
        }
        found.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_greedy() {
        #[rustfmt::skip]
        let table: &[(&str, &str, Option<&[&str]>)] = &[
            ("/images/json",                "/images/json",               Some(&[])),
            ("/images/json",                "/images/json/",              None),
            ("/images/{name}/json",         "/images/a/b:tag/json",       Some(&["a/b:tag"])),
            ("/images/{name}/json",         "/images/json",               None),
            ("/images/{name}/json",         "/images/a/json/json",        Some(&["a/json"])),
            ("/images/{name}",              "/images/a/b@sha256:1",       Some(&["a/b@sha256:1"])),
            ("/images/{name}",              "/images",                    None),
            ("/c/{id}/checkpoints/{name}",  "/c/x/checkpoints/y/z",       Some(&["x", "y/z"])),
            ("/c/{id}/checkpoints/{name}",  "/c/x/checkpoints",           None),
            ("/volumes/{name}",             "/volumes/\u{e9}",            Some(&["\u{e9}"])),
        ];
        for (pattern, path, expected) in table {
            let expected =
                expected.map(|found| Captures(found.iter().map(|s| (*s).to_owned()).collect()));
            assert_eq!(captures(pattern, path), expected, "{pattern} {path}");
        }
    }
}
