//! Why a layer operation failed.

use std::io;
use std::path::PathBuf;

use berth_db::DbError;
use berth_fs::changes::ChangesError;
use berth_fs::pack::PackError;
use berth_fs::unpack::UnpackError;
use berth_storage::StorageError;
use berth_types::{ChainId, Classify, ContainerId, DiffId, ErrorKind};

/// Why a layer operation failed. Texts that Docker has are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer does not exist")]
    Unknown { chain: ChainId },
    #[error("container {container} has no writable layer")]
    UnknownContainer { container: ContainerId },
    #[error("the writable layer of container {container} is on the storage driver {driver}")]
    OtherDriver { container: ContainerId, driver: String },
    #[error("container {container} has ended meanwhile")]
    RunEnded { container: ContainerId },
    #[error("max depth exceeded")]
    MaxDepth,
    #[error("invalid diffID for layer {slot}: expected \"{expected}\", got \"{got}\"")]
    DiffId { slot: usize, expected: DiffId, got: DiffId },
    #[error("layers of the storage driver {driver} cannot be mended by berth")]
    CannotMend { driver: &'static str },
    #[error("layer {slot} was not applied")]
    NotApplied { slot: usize },
    #[error("cannot unpack layer {slot}")]
    Unpack { slot: usize, source: UnpackError },
    #[error("cannot compare layers")]
    Changes { source: ChangesError },
    #[error("cannot pack a layer")]
    Pack { source: PackError },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Classify for LayerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } | Self::UnknownContainer { .. } => ErrorKind::NotFound,
            Self::Storage(error) => error.kind(),
            Self::Unpack { source, .. } => unpack_kind(source),
            Self::DiffId { .. } => ErrorKind::InvalidParameter,
            Self::OtherDriver { .. } | Self::RunEnded { .. } => ErrorKind::Conflict,
            Self::CannotMend { .. } => ErrorKind::NotImplemented,
            Self::MaxDepth
            | Self::NotApplied { .. }
            | Self::Changes { .. }
            | Self::Pack { .. }
            | Self::Io { .. }
            | Self::Db(_) => ErrorKind::Internal,
        }
    }
}

/// A full disk is nobody's archive's fault.
fn unpack_kind(error: &UnpackError) -> ErrorKind {
    match error {
        UnpackError::Io { .. } | UnpackError::TarSplit { .. } => ErrorKind::Internal,
        _ => ErrorKind::InvalidParameter,
    }
}

impl From<ChangesError> for LayerError {
    fn from(source: ChangesError) -> Self {
        Self::Changes { source }
    }
}

impl From<PackError> for LayerError {
    fn from(source: PackError) -> Self {
        Self::Pack { source }
    }
}
