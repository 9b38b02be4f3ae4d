//! Why a pull, a push or a look at a registry failed.

use berth_registry::RegistryError;
use berth_types::{Classify, ErrorKind};

use crate::error::EngineError;

/// Why a pull, a push or a look at a registry failed. The texts are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum RegistryUseError {
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login': \
         {cause}"
    )]
    Denied { name: String, cause: RegistryError },
    #[error("manifest for {name} not found: {cause}")]
    NoManifest { name: String, cause: RegistryError },
    #[error("repository {name} not found: {cause}")]
    NoRepository { name: String, cause: RegistryError },
    #[error("'{name}' is a reserved name")]
    Reserved { name: String },
    #[error("error pulling image configuration: {0}")]
    Config(RegistryError),
    #[error("layers from manifest don't match image configuration")]
    ForeignLayers,
    #[error("image operating system \"{os}\" cannot be used on this platform")]
    OtherOs { os: String },
    #[error("An image does not exist locally with the tag: {name}")]
    NothingToPush { name: String },
    #[error("tag does not exist: {name}")]
    NoTag { name: String },
    #[error("invalid filter 'stars={text}'")]
    Stars { text: String },
    #[error("cannot push a digest reference")]
    PushDigest,
    #[error("{0}")]
    Registry(RegistryError),
    /// At the door: the registry's refusal is the answer's.
    #[error("{0}")]
    Asked(RegistryError),
}

impl RegistryUseError {
    /// A pull's failure, which names what was asked for.
    pub(super) fn of_pull(cause: RegistryError, name: &berth_types::reference::Reference) -> Self {
        match cause.first().map(|error| &*error.code) {
            Some("DENIED") => Self::Denied { name: name.familiar_name(), cause },
            Some("MANIFEST_UNKNOWN") => Self::NoManifest { name: name.familiar(), cause },
            Some("NAME_UNKNOWN") => Self::NoRepository { name: name.familiar_name(), cause },
            _ => Self::Registry(cause),
        }
    }
}

impl From<RegistryError> for RegistryUseError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// Whether another address of the same registry may do better.
pub(super) fn is_worth_another_address(error: &EngineError, is_mirror: bool) -> bool {
    let EngineError::Registry(error) = error else { return is_mirror };
    match &**error {
        RegistryUseError::Denied { cause, .. }
        | RegistryUseError::NoManifest { cause, .. }
        | RegistryUseError::NoRepository { cause, .. }
        | RegistryUseError::Registry(cause)
        | RegistryUseError::Asked(cause) => is_mirror || may_be_elsewhere(cause),
        _ => is_mirror,
    }
}

/// Whether what failed may be a matter of the address, not of the image.
fn may_be_elsewhere(error: &RegistryError) -> bool {
    !matches!(
        error,
        RegistryError::SchemaOne { .. }
            | RegistryError::MediaType { .. }
            | RegistryError::NotAnImage { .. }
            | RegistryError::NoPlatform { .. }
            | RegistryError::TooLong { .. }
            | RegistryError::BlobDigest { .. }
            | RegistryError::BlobSize { .. }
            | RegistryError::ManifestDigest { .. }
            | RegistryError::File { .. }
            | RegistryError::Source { .. }
    )
}

impl Classify for RegistryUseError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied { .. } | Self::NoManifest { .. } | Self::NoRepository { .. } => {
                ErrorKind::NotFound
            }
            Self::Reserved { .. } => ErrorKind::Forbidden,
            Self::NothingToPush { .. } | Self::NoTag { .. } => ErrorKind::NotFound,
            Self::Stars { .. } | Self::PushDigest => ErrorKind::InvalidParameter,
            Self::Asked(cause) => cause.kind(),
            Self::Registry(RegistryError::SchemaOne { .. } | RegistryError::AuthHeader { .. }) => {
                ErrorKind::InvalidParameter
            }
            // Docker answers 500 whatever the registry said.
            Self::Config(_) | Self::ForeignLayers | Self::OtherOs { .. } | Self::Registry(_) => {
                ErrorKind::Internal
            }
        }
    }
}
