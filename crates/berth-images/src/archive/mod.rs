//! Archives of images as they come in: spooled, indexed, and read into a plan of what to load.

mod docker;
mod legacy;
mod members;
mod oci;
mod plan;
mod spool;

use std::io;
use std::path::PathBuf;

use berth_fs::decompress::DecompressError;
use berth_types::{Classify, DigestError, ErrorKind};

pub(crate) use plan::{Planned, plan};
pub(crate) use spool::{Blob, Spool};

/// Why an archive was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("archive/tar: invalid tar header")]
    Header,
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error("invalid archive: {name:?} is a sparse file")]
    Sparse { name: String },
    #[error("invalid archive: {name:?} is outside of it")]
    Outside { name: String },
    #[error("invalid archive: invalid symlink {name:?} -> {target:?}")]
    Symlink { name: String, target: String },
    #[error("invalid archive: invalid hardlink {name:?} -> {target:?}")]
    HardLink { name: String, target: String },
    #[error("invalid archive: more than {limit} entries")]
    TooMany { limit: usize },
    #[error("invalid archive: {name} is larger than {limit} bytes")]
    TooLarge { name: String, limit: u64 },
    #[error("open {name}: no such file or directory")]
    Missing { name: String },
    #[error("evalSymlinksInScope: too many links in {name}")]
    Loop { name: String },
    #[error("read {name}: is a directory")]
    IsDirectory { name: String },
    #[error("invalid archive: does not contain a manifest.json")]
    NoManifest,
    #[error("invalid archive: failed to decode {name}")]
    Json { name: String, source: serde_json::Error },
    #[error("invalid manifest, manifest cannot be null (but can be [])")]
    NullManifest,
    #[error("invalid manifest, layers length mismatch: expected {expected}, got {got}")]
    LayersLength { expected: usize, got: usize },
    #[error("invalid tag {tag:?}")]
    Tag { tag: String },
    #[error("invalid archive: {name} has the digest {got}")]
    BlobDigest { name: String, got: String },
    #[error("invalid archive: {text:?} is not a digest")]
    Digest { text: String, source: DigestError },
    #[error("invalid archive: OCI image layout version {version:?} is not supported")]
    LayoutVersion { version: String },
    #[error("invalid archive: unsupported media type {media_type:?} of {name}")]
    MediaType { name: String, media_type: String },
    #[error("invalid archive: image indexes are nested too deep")]
    Nesting,
    #[error("invalid archive: no image for the platform linux/{architecture} in {name}")]
    NoPlatform { name: String, architecture: &'static str },
    #[error("invalid target ID: {id}")]
    TargetId { id: String },
    #[error("invalid archive: image {id} is its own ancestor")]
    Cycle { id: String },
    #[error("cannot {action} {}", .path.display())]
    Spool { action: &'static str, path: PathBuf, source: io::Error },
}

impl ArchiveError {
    /// Docker's words for an archive that stops in the middle.
    fn read(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated
        } else {
            Self::Read(error)
        }
    }
}

impl Classify for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Spool { .. } => ErrorKind::Internal,
            Self::Truncated
            | Self::Header
            | Self::Read(_)
            | Self::Decompress(_)
            | Self::Sparse { .. }
            | Self::Outside { .. }
            | Self::Symlink { .. }
            | Self::HardLink { .. }
            | Self::TooMany { .. }
            | Self::TooLarge { .. }
            | Self::Missing { .. }
            | Self::Loop { .. }
            | Self::IsDirectory { .. }
            | Self::NoManifest
            | Self::Json { .. }
            | Self::NullManifest
            | Self::LayersLength { .. }
            | Self::Tag { .. }
            | Self::BlobDigest { .. }
            | Self::Digest { .. }
            | Self::LayoutVersion { .. }
            | Self::MediaType { .. }
            | Self::Nesting
            | Self::NoPlatform { .. }
            | Self::TargetId { .. }
            | Self::Cycle { .. } => ErrorKind::InvalidParameter,
        }
    }
}
