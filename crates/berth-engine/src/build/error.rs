//! Why a build failed.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, ErrorKind};

use crate::error::EngineError;

/// Why a build failed. Texts that Docker has are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("build tag cannot contain a digest")]
    DigestTag,
    #[error("squash is only supported with experimental mode")]
    Squash,
    #[error("invalid isolation: {isolation:?}")]
    Isolation { isolation: String },
    #[error("Cannot locate specified Dockerfile: {name}")]
    NoDockerfile { name: String },
    #[error("forbidden path outside the build context: {path} ()")]
    Outside { path: String },
    #[error("the Dockerfile ({name}) cannot be empty")]
    EmptyDockerfile { name: String },
    #[error("the Dockerfile ({name}) is not a regular file of at most {limit} bytes")]
    BadDockerfile { name: String, limit: u64 },
    #[error("cannot read the Dockerfile ({name})")]
    ReadDockerfile { name: String, source: io::Error },
    #[error("cannot unpack the build context")]
    Context(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("missing build context")]
    NoContext,
    #[error("{0}")]
    Fetch(berth_registry::RegistryError),
    #[error("remoteURL ({url}) could not be recognized as URL")]
    RemoteUrl { url: String },
    #[error("unsupported Content-Type {kind:?}")]
    ContentType { kind: String },
    #[error("invalid refspec: {reference}")]
    GitReference { reference: String },
    #[error("error setting git context, {dir} is not a directory of the repository")]
    GitDirectory { dir: String, source: io::Error },
    #[error("cannot run git, which a build from a repository needs")]
    NoGit(#[source] io::Error),
    #[error("git {step} failed: {said}")]
    Git { step: String, said: String },
    #[error(transparent)]
    Syntax(#[from] berth_build::BuildError),
    #[error(transparent)]
    Instruction(#[from] berth_build::SyntaxError),
    #[error(
        "the --{option} option requires BuildKit. Refer to \
         https://docs.docker.com/go/buildkit/ to learn how to build images with BuildKit enabled"
    )]
    NeedsBuildKit { option: &'static str },
    #[error("{name} stage name already used")]
    StageName { name: String },
    #[error("base name ({name}) should not be blank")]
    BlankBase { name: String },
    #[error("failed to parse platform {platform}")]
    Platform { platform: String, source: Box<EngineError> },
    #[error("invalid from flag value {value}: {problem}")]
    FromFlag { value: String, problem: &'static str },
    #[error("invalid from flag value {value}")]
    FromImage { value: String, source: Box<EngineError> },
    #[error("Please provide a source image with `from` prior to {instruction}")]
    NoFrom { instruction: &'static str },
    #[error("No image was generated. Is your Dockerfile empty?")]
    NoImage,
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i64 },
    #[error("{instruction} failed: {problem}")]
    Source { instruction: &'static str, problem: SourceError },
    #[error(
        "When using {instruction} with more than one source file, the destination must be a \
         directory and end with a /"
    )]
    NotADirectory { instruction: &'static str },
    #[error("unable to convert uid/gid chown string to host mapping: {problem}")]
    Chown { problem: String },
    #[error("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")]
    Chmod { text: String },
    #[error("secret {id}: not found")]
    Secret { id: String },
    #[error("invalid mount target {target:?}")]
    MountTarget { target: String },
    #[error("Cannot mkdir: {} is not a directory", .path.display())]
    Workdir { path: PathBuf },
    #[error("failed to copy files: {problem} {}: {reason}", .path.display())]
    Place { problem: &'static str, path: PathBuf, reason: &'static str },
    #[error("failed to copy files")]
    Copy(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("Build cancelled")]
    Cancelled,
}

/// What is wrong with a source of `ADD` or `COPY`.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("no source files were specified")]
    None,
    #[error("forbidden path outside the build context: {path} ()")]
    Outside { path: String },
    #[error(
        "file not found in build context or excluded by .dockerignore: stat {path}: file does not \
         exist"
    )]
    Missing { path: String },
    #[error("stat {path}: file does not exist")]
    MissingInImage { path: String },
    #[error("source can't be a URL for COPY")]
    Url,
    #[error("cannot determine filename for source {url}")]
    NoName { url: String },
    #[error(transparent)]
    Fetch(#[from] berth_registry::RegistryError),
    #[error("cannot keep {url}: {source}")]
    Keep { url: String, source: io::Error },
    #[error("missing build context")]
    NoContext,
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
}

impl Classify for BuildError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ReadDockerfile { .. } | Self::Copy(_) | Self::NoGit(_) => ErrorKind::Internal,
            Self::Fetch(error) => error.kind(),
            Self::NeedsBuildKit { .. } => ErrorKind::NotImplemented,
            Self::DigestTag
            | Self::Squash
            | Self::Isolation { .. }
            | Self::NoDockerfile { .. }
            | Self::Outside { .. }
            | Self::EmptyDockerfile { .. }
            | Self::BadDockerfile { .. }
            | Self::Context(_)
            | Self::RemoteUrl { .. }
            | Self::ContentType { .. }
            | Self::GitReference { .. }
            | Self::GitDirectory { .. }
            | Self::Git { .. }
            | Self::NoContext
            | Self::Syntax(_)
            | Self::Instruction(_)
            | Self::StageName { .. }
            | Self::BlankBase { .. }
            | Self::Platform { .. }
            | Self::FromFlag { .. }
            | Self::FromImage { .. }
            | Self::NoFrom { .. }
            | Self::NoImage
            | Self::Command { .. }
            | Self::Source { .. }
            | Self::NotADirectory { .. }
            | Self::Workdir { .. }
            | Self::Chown { .. }
            | Self::Chmod { .. }
            | Self::Secret { .. }
            | Self::MountTarget { .. }
            | Self::Place { .. }
            | Self::Cancelled => ErrorKind::InvalidParameter,
        }
    }
}
