//! Why a call failed.

use std::io;

/// Why a call failed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("unable to parse docker host `{host}`")]
    Host { host: String },
    #[error("Cannot connect to the berth daemon at {endpoint}. Is the berth daemon running?")]
    Connect { endpoint: String, source: io::Error },
    #[error("TLS with {endpoint} failed")]
    Tls { endpoint: String, source: io::Error },
    #[error("cannot use the TLS file {path}: {reason}")]
    TlsFile { path: String, reason: String },
    #[error("the connection to the daemon failed")]
    Http(#[from] hyper::Error),
    #[error("the request is malformed")]
    Request(#[from] hyper::http::Error),
    #[error("Error response from daemon: {message}")]
    Daemon { status: u16, message: String },
    #[error("the daemon's answer cannot be understood")]
    Answer(#[from] serde_json::Error),
    #[error("unable to upgrade to tcp, received {status}")]
    NotUpgraded { status: u16 },
    #[error("the stream of the daemon broke off")]
    Stream(#[source] io::Error),
}

impl ClientError {
    /// The HTTP status, where the daemon answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the daemon says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The daemon's message without the prefix; the whole text for other failures.
    pub fn message(&self) -> String {
        match self {
            Self::Daemon { message, .. } => message.clone(),
            other => berth_types::kind::chain(other),
        }
    }
}
