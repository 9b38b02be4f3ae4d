//! Why a network operation failed.

use std::io;
use std::path::PathBuf;

use berth_db::DbError;
use berth_types::{Classify, ErrorKind};

/// Why a network operation failed. The texts are Docker's where Docker has one.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network {name} not found")]
    NotFound { name: String },
    #[error("network {prefix} is ambiguous ({matches} matches found based on ID prefix)")]
    Ambiguous { prefix: String, matches: usize },
    #[error("{name} is a pre-defined network and cannot be removed")]
    RemovePredefined { name: String },
    #[error("operation is not permitted on predefined {name} network ")]
    CreatePredefined { name: String },
    #[error("invalid filter '{key}'")]
    FilterUnknown { key: String },
    #[error("invalid filter '{key}={value}'")]
    FilterValue { key: &'static str, value: String },
    #[error("{feature} is not supported by this version of berth")]
    Unsupported { feature: String },
    #[error("{what}")]
    Invalid { what: String },
    #[error("the bridge network is disabled (--bridge none)")]
    BridgeDisabled,
    #[error("{device} exists and is not a bridge")]
    NotABridge { device: String },
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )]
    NoPool,
    #[error("no available IPv4 addresses on this network's address pools: bridge ({id})")]
    NoAddress { id: String },
    #[error("cannot {action}")]
    Kernel { action: String, source: io::Error },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot record the network")]
    Db(#[from] DbError),
}

impl NetworkError {
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Kernel { action, source }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Classify for NetworkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. }
            | Self::FilterUnknown { .. }
            | Self::FilterValue { .. }
            | Self::Invalid { .. } => ErrorKind::InvalidParameter,
            Self::RemovePredefined { .. } | Self::CreatePredefined { .. } => ErrorKind::Forbidden,
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::BridgeDisabled
            | Self::NotABridge { .. }
            | Self::NoPool
            | Self::NoAddress { .. }
            | Self::Kernel { .. }
            | Self::Io { .. }
            | Self::Db(_) => ErrorKind::Internal,
        }
    }
}
