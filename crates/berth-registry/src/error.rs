//! Why a registry could not be used.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, Digest, ErrorKind};
use serde::Deserialize;

/// Why a registry could not be used. Texts that Docker has are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    #[error("{}", said(.0))]
    Said(Vec<ErrorCode>),
    #[error("received unexpected HTTP status: {status}")]
    Status { status: String },
    #[error("error parsing HTTP {status} response body: {reason}: {body:?}")]
    Unreadable { status: u16, reason: String, body: String },
    #[error("{verb} \"{url}\": {reason}")]
    Transport { verb: String, url: String, reason: String },
    #[error("{verb} \"{url}\": {cause}")]
    Token { verb: String, url: String, cause: Box<Self> },
    #[error("login attempt to {url} failed with status: {status}")]
    Login { url: String, status: String },
    #[error("no basic auth credentials")]
    NoCredentials,
    #[error("authorization server did not include a token in the response")]
    NoToken,
    #[error("invalid {header} header: {reason}")]
    AuthHeader { header: &'static str, reason: String },
    #[error("unable to parse server address: {text}")]
    Server { text: String },
    #[error("{path}: {reason}")]
    Certificate { path: String, reason: String },
    #[error("could not read CA certificate {path}: {reason}")]
    Trust { path: String, reason: String },
    #[error("invalid registry address {text}: {reason}")]
    Address { text: String, reason: String },
    #[error("manifest verification failed for digest {digest}")]
    ManifestDigest { digest: Digest },
    #[error("manifest invalid: {reason}")]
    BadManifest { reason: String },
    #[error(
        "the answer to {what} has more than {most} bytes, which is more than is taken from a registry"
    )]
    TooLong { what: &'static str, most: u64 },
    #[error("Encountered remote {media_type:?}({class}) when fetching")]
    NotAnImage { media_type: String, class: &'static str },
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been \
         removed. Suggest the author of {image} to upgrade the image to the OCI Format or Docker \
         Image manifest v2, schema 2. More information at \
         https://docs.docker.com/go/deprecated-image-specs/"
    )]
    SchemaOne { image: String },
    #[error("unsupported manifest media type {media_type:?}")]
    MediaType { media_type: String },
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: String },
    #[error("image config verification failed for digest {digest}")]
    ConfigDigest { digest: Digest },
    #[error("filesystem layer verification failed for digest {digest}")]
    BlobDigest { digest: Digest },
    #[error("blob {digest} has {got} bytes, and its manifest says {expected}")]
    BlobSize { digest: Digest, expected: u64, got: u64 },
    #[error("unexpected EOF")]
    Cut,
    #[error("the registry sent fewer than {bytes} bytes in {seconds} s")]
    Stalled { bytes: u64, seconds: u64 },
    #[error("cannot {action} {}: {reason}", .path.display())]
    File { action: &'static str, path: PathBuf, reason: String },
    #[error("failed to GET {url} with status {status}: {words}")]
    Fetch { url: String, status: String, words: String },
    #[error("cannot write what was fetched: {reason}")]
    Write { reason: String },
    #[error("cannot read the layer: {reason}")]
    Source { reason: String },
    #[error("no upload location in the answer")]
    NoLocation,
    #[error("invalid repository name (ex: \"registry.domain.tld/myrepos\")")]
    SearchName,
    #[error("Limit {limit} is outside the range of [1, 100]")]
    SearchLimit { limit: i64 },
    #[error("Unexpected status code {status}")]
    SearchStatus { status: u16 },
    #[error("Unexpected status code 404: {host} does not answer searches")]
    NoSearch { host: String },
    #[error(
        "invalid registry endpoint \"http://{domain}/v1/\". HTTPS attempt: {https}. HTTP attempt: {http}"
    )]
    SearchEndpoint { domain: String, https: Box<Self>, http: Box<Self> },
}

/// One error of a registry's answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct ErrorCode {
    /// `MANIFEST_UNKNOWN` and the like.
    pub code: String,
    /// The registry's words.
    pub message: String,
    /// What they are about, in no form that is agreed on: a blob's digest alone, or an object with it.
    pub detail: serde_json::Value,
    /// How long it asks to be left alone, in seconds; from a header of the answer.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl ErrorCode {
    /// A code with the words that belong to it.
    pub(crate) fn new(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), ..Self::default() }
    }

    /// Whether a manifest is refused because a blob that it names is not there.
    pub fn is_blob_unknown(&self) -> bool {
        ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"].contains(&&*self.code)
    }

    /// The code as it is read out: `manifest unknown`.
    fn spoken(&self) -> String {
        self.code.to_lowercase().replace('_', " ")
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.message.is_empty() {
            return f.write_str(&self.spoken());
        }
        write!(f, "{}: {}", self.spoken(), self.message)
    }
}

fn said(errors: &[ErrorCode]) -> String {
    match errors {
        [] => "<nil>".to_owned(),
        [one] => one.to_string(),
        several => {
            several.iter().fold("errors:\n".to_owned(), |text, error| format!("{text}{error}\n"))
        }
    }
}

impl RegistryError {
    /// The first error of the registry's answer.
    pub fn first(&self) -> Option<&ErrorCode> {
        match self {
            Self::Said(errors) => errors.first(),
            Self::Token { cause, .. } => cause.first(),
            _ => None,
        }
    }

    /// Whether the registry answered with this code.
    pub fn is_code(&self, code: &str) -> bool {
        self.first().is_some_and(|error| error.code == code)
    }

    /// Whether asking the same registry again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Transport { .. }
            | Self::Status { .. }
            | Self::Cut
            | Self::Stalled { .. }
            | Self::Unreadable { status: 500.., .. } => true,
            Self::Said(errors) => errors.first().is_some_and(|error| {
                error.retry_after.is_some() || matches!(&*error.code, "UNAVAILABLE" | "UNKNOWN")
            }),
            Self::Token { cause, .. } => cause.is_passing(),
            _ => false,
        }
    }

    pub(crate) fn file(action: &'static str, path: &std::path::Path, source: &io::Error) -> Self {
        Self::File { action, path: path.to_owned(), reason: source.to_string() }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Said(errors) => match errors.first().map(|error| &*error.code) {
                Some("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN") => ErrorKind::NotFound,
                Some("UNAUTHORIZED") => ErrorKind::Unauthorized,
                Some("DENIED") => ErrorKind::Forbidden,
                Some("UNAVAILABLE" | "TOOMANYREQUESTS") => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Token { cause, .. } => cause.kind(),
            Self::AuthHeader { .. }
            | Self::Server { .. }
            | Self::Address { .. }
            | Self::SearchName
            | Self::SearchLimit { .. }
            | Self::SchemaOne { .. } => ErrorKind::InvalidParameter,
            Self::NoPlatform { .. } => ErrorKind::NotFound,
            Self::Status { .. }
            | Self::Unreadable { .. }
            | Self::Transport { .. }
            | Self::Login { .. }
            | Self::SearchStatus { .. }
            | Self::NoSearch { .. }
            | Self::SearchEndpoint { .. }
            | Self::NoCredentials
            | Self::NoToken
            | Self::Certificate { .. }
            | Self::Trust { .. }
            | Self::ManifestDigest { .. }
            | Self::BadManifest { .. }
            | Self::TooLong { .. }
            | Self::NotAnImage { .. }
            | Self::MediaType { .. }
            | Self::ConfigDigest { .. }
            | Self::BlobDigest { .. }
            | Self::BlobSize { .. }
            | Self::Cut
            | Self::Stalled { .. }
            | Self::File { .. }
            | Self::Fetch { .. }
            | Self::Write { .. }
            | Self::Source { .. }
            | Self::NoLocation => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_as_docker_tells_them() {
        #[rustfmt::skip]
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[],                                        "<nil>"),
            (&[("MANIFEST_UNKNOWN", "manifest unknown")], "manifest unknown: manifest unknown"),
            (&[("DENIED", "")],                          "denied"),
            (&[("A", "x"), ("B_C", "y")],                "errors:\na: x\nb c: y\n"),
        ];
        for (errors, expected) in table {
            let errors = errors.iter().map(|(code, words)| ErrorCode::new(code, words)).collect();
            assert_eq!(RegistryError::Said(errors).to_string(), *expected);
        }
    }
}
