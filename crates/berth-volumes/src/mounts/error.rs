//! Why a mount was refused.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, ErrorKind};

/// Why a mount was refused. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("invalid volume specification: '{spec}'")]
    Spec { spec: String },
    #[error("invalid volume specification: '{spec}'")]
    SpecConfig { spec: String, source: ConfigError },
    #[error("invalid mode: {mode}")]
    Mode { mode: String },
    #[error(transparent)]
    Config(ConfigError),
    #[error("Duplicate mount point: {destination}")]
    Duplicate { destination: String },
    #[error("volumes-from specification cannot be an empty string")]
    VolumesFromEmpty,
    #[error(
        "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when \
         mount source is within the daemon root, daemon root: {root:?}, bind mount source: \
         {source_path:?}, propagation: {propagation:?}"
    )]
    DaemonRoot { root: PathBuf, source_path: String, propagation: String },
    #[error("{feature} is not supported by this version of berth")]
    Unsupported { feature: String },
    #[error("invalid tmpfs option {option}")]
    Tmpfs { option: String },
    #[error("error while creating mount source path '{}'", .path.display())]
    CreateSource { path: PathBuf, source: io::Error },
    #[error("cannot examine the mount source path {}", .path.display())]
    Examine { path: PathBuf, source: io::Error },
    #[error("path {} is mounted on {} but it is not a shared mount", .path.display(), .on.display())]
    NotShared { path: PathBuf, on: PathBuf },
    #[error(
        "path {} is mounted on {} but it is not a shared or slave mount",
        .path.display(),
        .on.display()
    )]
    NotSlave { path: PathBuf, on: PathBuf },
}

/// What is wrong with one mount.
#[derive(Debug, thiserror::Error)]
#[error("invalid mount config for type \"{kind}\": {cause}")]
pub struct ConfigError {
    /// The type as given.
    pub kind: String,
    /// Docker's words for the cause.
    pub cause: Cause,
}

/// The causes of a [`ConfigError`].
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("invalid mount path: '{path}' mount path must be absolute")]
    Relative { path: String },
    #[error("invalid specification: destination can't be '/'")]
    RootDestination,
    #[error("field {field} must not be specified")]
    Extra { field: &'static str },
    #[error("field {field} must not be empty")]
    Empty { field: &'static str },
    #[error("invalid propagation mode: {mode}")]
    Propagation { mode: String },
    #[error("bind source path does not exist: {path}")]
    NoSource { path: String },
    #[error("must not set ReadOnly mode when using anonymous volumes")]
    AnonymousReadOnly,
    #[error("must not set Subpath when using anonymous volumes")]
    AnonymousSubpath,
    #[error("subpath must be a relative path within the volume")]
    Subpath,
    #[error("mount type unknown")]
    UnknownType,
    #[error("mount options conflict: {conflict}")]
    Conflict { conflict: &'static str },
    #[error("invalid option: {option}")]
    TmpfsOption { option: String },
    #[error("cannot examine {path}: {error}")]
    Examine { path: String, error: io::Error },
}

impl Classify for MountError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec { .. }
            | Self::SpecConfig { .. }
            | Self::Mode { .. }
            | Self::Config(_)
            | Self::Duplicate { .. }
            | Self::VolumesFromEmpty
            | Self::DaemonRoot { .. }
            | Self::Tmpfs { .. } => ErrorKind::InvalidParameter,
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::CreateSource { .. }
            | Self::Examine { .. }
            | Self::NotShared { .. }
            | Self::NotSlave { .. } => ErrorKind::Internal,
        }
    }
}
