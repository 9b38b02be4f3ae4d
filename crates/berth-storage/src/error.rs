//! Why a storage call failed.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, ErrorKind, LayerId};

use crate::devicemapper::DevicemapperError;
use crate::zfs::ZfsError;

/// Why a storage call failed. Texts that Docker has are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("driver not supported")]
    NotSupported,
    #[error("prerequisites for driver not satisfied (wrong filesystem?)")]
    Prerequisites,
    #[error("backing file system is unsupported for this graph driver")]
    BackingFs,
    #[error(
        "{driver}: the backing {backing} filesystem is formatted without d_type support, which \
         leads to incorrect behavior.{} Backing filesystems without d_type support are not \
         supported.",
        d_type_advice(.backing)
    )]
    DType { driver: &'static str, backing: &'static str },
    #[error(
        "{} contains several valid graphdrivers: {}; Please cleanup or explicitly choose storage \
         driver (-s <DRIVER>)",
        .root.display(),
        .names.join(", ")
    )]
    SeveralPrior { root: PathBuf, names: Vec<&'static str> },
    #[error("No supported storage backend found")]
    NoneFound,
    #[error("layers of the storage driver {driver} cannot be copied by this version of berth")]
    CannotCopy { driver: String },
    #[error(
        "layers of the storage driver btrfs can only be copied to btrfs, and {} is on another file \
         system",
        .path.display()
    )]
    NotBtrfs { path: PathBuf },
    #[error(
        "layer {id} was written with overlay2.index=on, and hard links that it changed are in the kernel's \
         index only, which cannot be copied: make an image of the container (docker commit), then \
         remove it"
    )]
    Indexed { id: LayerId },
    #[error("max depth exceeded")]
    MaxDepth,
    #[error("layer {id} does not exist in driver {driver}")]
    UnknownLayer { driver: &'static str, id: LayerId },
    #[error("layer {id} exists in driver {driver} already")]
    LayerExists { driver: &'static str, id: LayerId },
    #[error("layer {id} of driver {driver} is read-only")]
    ReadOnly { driver: &'static str, id: LayerId },
    #[error("{what} of layer {id} is damaged")]
    Damaged { id: LayerId, what: &'static str },
    #[error("SELinux mount labels are not supported by this version of berth")]
    MountLabel,
    #[error("cannot mount layer, mount label too large {length}")]
    MountTooLong { length: usize },
    #[error("error creating {fs_type} mount to {}", .target.display())]
    Mount { fs_type: String, target: PathBuf, source: io::Error },
    #[error("{0}")]
    Option(String),
    #[error(transparent)]
    Devicemapper(#[from] DevicemapperError),
    #[error(transparent)]
    Zfs(#[from] ZfsError),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl StorageError {
    /// Whether this says that the driver cannot work here, so that another may be tried.
    pub fn is_not_supported(&self) -> bool {
        matches!(
            self,
            Self::NotSupported | Self::Prerequisites | Self::BackingFs | Self::DType { .. }
        )
    }
}

impl Classify for StorageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Option(_) | Self::NotBtrfs { .. } => ErrorKind::InvalidParameter,
            Self::UnknownLayer { .. } => ErrorKind::NotFound,
            Self::LayerExists { .. } | Self::ReadOnly { .. } => ErrorKind::Conflict,
            Self::MountLabel | Self::CannotCopy { .. } | Self::Indexed { .. } => {
                ErrorKind::NotImplemented
            }
            Self::Devicemapper(error) => error.kind(),
            Self::Zfs(error) => error.kind(),
            Self::NotSupported
            | Self::Prerequisites
            | Self::BackingFs
            | Self::DType { .. }
            | Self::SeveralPrior { .. }
            | Self::NoneFound
            | Self::MaxDepth
            | Self::Damaged { .. }
            | Self::MountTooLong { .. }
            | Self::Mount { .. }
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

fn d_type_advice(backing: &str) -> &'static str {
    match backing {
        "xfs" => " Reformat the filesystem with ftype=1 to enable d_type support.",
        "extfs" => {
            " Reformat the filesystem (or use tune2fs) with -O filetype flag to enable d_type \
             support."
        }
        _ => "",
    }
}

/// `map_err` closure for a failed system call on `path`.
pub(crate) fn io_at<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> StorageError {
    let path = path.into();
    move |source| StorageError::Io { action, path, source: source.into() }
}
