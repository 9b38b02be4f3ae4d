//! Why an image operation failed.

use std::io;
use std::path::PathBuf;

use berth_api::filters::FilterError;
use berth_db::DbError;
use berth_fs::decompress::DecompressError;
use berth_fs::unpack::UnpackError;
use berth_layers::LayerError;
use berth_types::duration::DurationError;
use berth_types::{Classify, DiffId, ErrorKind, ImageId};

use crate::archive::ArchiveError;

/// Why an image operation failed. Texts that Docker has are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("No such image: {name}")]
    NotFound { name: String },
    #[error("reference does not exist")]
    NoReference,
    #[error("ambiguous digest string")]
    Ambiguous,
    #[error(transparent)]
    Reference(#[from] berth_types::reference::ReferenceError),
    #[error("image name cannot be blank")]
    BlankName,
    #[error("refusing to create an ambiguous tag using digest algorithm as name")]
    AmbiguousTag,
    #[error("refusing to create a tag with a digest reference")]
    DigestTag,
    #[error("cannot import digest reference")]
    ImportDigest,
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - container \
         {container} is using its referenced image {image}"
    )]
    ReferenceInUse { reference: String, container: String, image: String },
    #[error("conflict: unable to delete {image} ({}) - {problem}", .problem.force())]
    DeleteConflict { image: String, problem: Conflict },
    #[error("cannot write the image's configuration")]
    Config(#[source] serde_json::Error),
    #[error("invalid image JSON")]
    ConfigJson(#[source] berth_api::go::GoJsonError),
    #[error("invalid image JSON: {text:?} is not a time in RFC 3339 form")]
    ConfigTime { text: String },
    #[error("invalid image JSON, no RootFS key")]
    NoRootFs,
    #[error("too many non-empty layers in History section")]
    TooManyHistoryLayers,
    #[error("empty export - not implemented")]
    EmptyExport,
    #[error("invalid diffID for layer {layer}: expected \"{expected}\", got \"{got}\"")]
    DiffId { layer: usize, expected: DiffId, got: DiffId },
    #[error("cannot unpack layer {layer}")]
    Unpack { layer: usize, source: UnpackError },
    #[error("layers from manifest don't match image configuration")]
    ForeignLayer,
    #[error("failed to register layer")]
    Register(#[source] LayerError),
    #[error("max depth exceeded")]
    MaxDepth,
    #[error("cannot load {os} image on linux")]
    OtherOs { os: String },
    #[error("the layer {chain} of image {image} does not exist")]
    LayerMissing { image: ImageId, chain: String },
    #[error("invalid value for 'until' filter")]
    Until(#[source] DurationError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    BadPattern(#[from] berth_build::glob::BadPattern),
    #[error("operating system is not supported")]
    ImportOs,
    #[error("{text:?}: {problem}: invalid argument")]
    Platform { text: String, problem: &'static str },
    #[error("the tar of layer {chain} has {got} bytes instead of {expected}")]
    TarSize { chain: String, expected: u64, got: u64 },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Changes(#[from] berth_build::SyntaxError),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot send the archive")]
    Send(#[source] io::Error),
    #[error("cannot read the layer")]
    ReadLayer(#[source] io::Error),
    #[error("cannot read a record of image {id}")]
    Damaged { id: String },
}

/// What stands against the removal of an image, in the order of checking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Conflict {
    #[error("image has dependent child images")]
    Children,
    #[error("image is being used by running container {container}")]
    Running { container: String },
    #[error("image is referenced in multiple repositories")]
    References,
    #[error("image is being used by stopped container {container}")]
    Stopped { container: String },
}

impl Conflict {
    fn force(&self) -> &'static str {
        match self {
            Self::Children | Self::Running { .. } => "cannot be forced",
            Self::References | Self::Stopped { .. } => "must be forced",
        }
    }

    /// Whether a container is what stands against it.
    pub(crate) fn is_use(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Stopped { .. })
    }
}

impl From<berth_db::sql::Error> for ImageError {
    fn from(error: berth_db::sql::Error) -> Self {
        Self::Db(error.into())
    }
}

impl Classify for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoReference => ErrorKind::NotFound,
            Self::Unpack {
                source: UnpackError::Io { .. } | UnpackError::TarSplit { .. }, ..
            }
            | Self::Config(_)
            | Self::EmptyExport
            | Self::MaxDepth
            | Self::LayerMissing { .. }
            | Self::Io { .. }
            | Self::TarSize { .. }
            | Self::Send(_)
            | Self::ReadLayer(_)
            | Self::Damaged { .. } => ErrorKind::Internal,
            Self::Reference(_)
            | Self::BlankName
            | Self::AmbiguousTag
            | Self::DigestTag
            | Self::ImportDigest
            | Self::ConfigJson(_)
            | Self::ConfigTime { .. }
            | Self::NoRootFs
            | Self::TooManyHistoryLayers
            | Self::DiffId { .. }
            | Self::ForeignLayer
            | Self::OtherOs { .. }
            | Self::Ambiguous
            | Self::Until(_)
            | Self::BadPattern(_)
            | Self::ImportOs
            | Self::Platform { .. }
            | Self::Decompress(_)
            | Self::Unpack { .. }
            | Self::Changes(_) => ErrorKind::InvalidParameter,
            Self::ReferenceInUse { .. } | Self::DeleteConflict { .. } => ErrorKind::Conflict,
            Self::Filter(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::Layer(error) | Self::Register(error) => error.kind(),
            Self::Db(error) => error.kind(),
        }
    }
}
