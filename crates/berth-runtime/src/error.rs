//! Why a container's settings were refused, or its watcher could not be reached.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use berth_shim_proto::Failure;
use berth_types::{Classify, ErrorKind};

use crate::caps::CapError;
use crate::devices::DeviceError;
use crate::seccomp::ProfileError;
use crate::user::UserError;

/// Why the runtime refused or failed. Texts that clients see are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{field} is not supported by this version of berth")]
    Unsupported { field: String },
    /// A setting that cannot be; the text says which.
    #[error("{text}")]
    Invalid { text: String },
    #[error(transparent)]
    Capability(#[from] CapError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("seccomp profile cannot be used")]
    Seccomp(#[from] ProfileError),
    #[error("stat {}", .path.display())]
    Stat { path: PathBuf, source: io::Error },
    #[error(
        "no init binary was found on this host: install the package tini, or give its path with --init-path"
    )]
    NoInit,
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged", .path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("cannot encode {what}")]
    Encode { what: &'static str, source: serde_json::Error },
    #[error("cannot start the watcher {}", .path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("the watcher of container {id} did not answer within {} s", .after.as_secs())]
    Timeout { id: String, after: Duration },
    #[error("the watcher of container {id} ended before it answered: {stderr}")]
    WatcherEnded { id: String, stderr: String },
    #[error("the watcher of container {id} cannot be reached")]
    Unreachable { id: String, source: io::Error },
    #[error("the watcher of container {id} gave an answer that makes no sense: {text}")]
    Protocol { id: String, text: String },
    /// The watcher tried and could not; the text is a runtime's.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl RuntimeError {
    /// A setting that cannot be.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid { text: text.into() }
    }

    /// A field that this version does not have.
    pub fn unsupported(field: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into() }
    }
}

impl Classify for RuntimeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::Invalid { .. }
            | Self::Capability(_)
            | Self::User(_)
            | Self::Device(_)
            | Self::Seccomp(_)
            | Self::Stat { .. }
            | Self::NoInit => ErrorKind::InvalidParameter,
            Self::Failed(failure) if matches!(failure.exit_code, 126 | 127) => {
                ErrorKind::InvalidParameter
            }
            Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::Failed(_)
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Record { .. }
            | Self::Encode { .. }
            | Self::Spawn { .. }
            | Self::Timeout { .. }
            | Self::WatcherEnded { .. }
            | Self::Protocol { .. } => ErrorKind::Internal,
        }
    }
}
