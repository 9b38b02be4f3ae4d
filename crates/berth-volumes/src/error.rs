//! Why a volume operation failed.

use std::io;
use std::path::PathBuf;

use berth_db::DbError;
use berth_types::{Classify, ErrorKind};

/// Why a volume operation failed. The texts are Docker's, word for word, where Docker has one.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("get {name}: no such volume")]
    NotFound { name: String },
    #[error("remove {name}: volume is in use - [{}]", .users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error(
        "create {name}: volume name is too short, names should be at least two alphanumeric \
         characters"
    )]
    NameTooShort { name: String },
    #[error(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )]
    NameInvalid { name: String },
    #[error("create {name}: file name too long")]
    NameTooLong { name: String },
    #[error(
        "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    )]
    DriverNotFound { name: String, driver: String },
    #[error(
        "create {name}: driver '{existing}' already has volume '{name}': volume name must be unique"
    )]
    DriverConflict { name: String, existing: String },
    #[error("create {name}: invalid option: \"{key}\"")]
    OptionInvalid { name: String, key: String },
    #[error("create {name}: missing required option: \"{key}\"")]
    OptionMissing { name: String, key: &'static str },
    #[error("create {name}: quota size requested but no quota support")]
    NoQuota { name: String },
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
         connect this node to swarm and try again."
    )]
    NotSwarm,
    #[error("invalid filter '{key}'")]
    FilterUnknown { key: String },
    #[error("invalid filter '{key}={value}'")]
    FilterValue { key: &'static str, value: String },
    #[error("invalid filter 'all={values}': only one value is expected")]
    FilterAllMany { values: String },
    #[error("invalid filter 'all': strconv.ParseBool: parsing {value:?}: invalid syntax")]
    FilterAll { value: String },
    #[error("error while mounting volume '{}': {cause}", .path.display())]
    Mount { path: PathBuf, cause: String },
    #[error("source {} is not directory", .path.display())]
    NotDirectory { path: PathBuf },
    #[error("cannot mount volume over existing file, file exists {}", .path.display())]
    OverFile { path: PathBuf },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot copy the image's files into volume {name}")]
    Populate { name: String, source: berth_fs::copy::CopyError },
    #[error("cannot record the volume")]
    Db(#[from] DbError),
}

impl VolumeError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Classify for VolumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::DriverNotFound { .. } => ErrorKind::NotFound,
            Self::NotSwarm => ErrorKind::Unavailable,
            Self::InUse { .. } | Self::DriverConflict { .. } => ErrorKind::Conflict,
            Self::NameTooShort { .. }
            | Self::NameInvalid { .. }
            | Self::NameTooLong { .. }
            | Self::OptionInvalid { .. }
            | Self::OptionMissing { .. }
            | Self::NoQuota { .. }
            | Self::FilterUnknown { .. }
            | Self::FilterValue { .. }
            | Self::FilterAllMany { .. }
            | Self::FilterAll { .. } => ErrorKind::InvalidParameter,
            Self::OverFile { .. }
            | Self::NotDirectory { .. }
            | Self::Mount { .. }
            | Self::Io { .. }
            | Self::Populate { .. }
            | Self::Db(_) => ErrorKind::Internal,
        }
    }
}
