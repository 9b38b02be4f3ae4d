//! Why the driver failed, in Docker's words where Docker has them.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, ErrorKind};

/// Why the driver failed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ZfsError {
    #[error("Failed to find zfs dataset mounted on '{}' in /proc/mounts", .root.display())]
    NoDataset { root: PathBuf },
    #[error("Cannot find root filesystem {name}: {why}")]
    NoRoot { name: String, why: String },
    #[error(
        "dataset {name} belongs to another data root (berth:home={theirs}); give this one a dataset of its \
         own (zfs create, zfs.fsname), or, if that other one is gone, destroy the dataset or take the \
         mark from it (zfs inherit berth:home {name})"
    )]
    OtherHome { name: String, theirs: String },
    #[error(
        "dataset {name} has layers and does not say that they are berth's; if it was received \
         without its properties, say so: zfs set berth:home={ours} {name}"
    )]
    Unmarked { name: String, ours: String },
    #[error(
        "dataset {name} has layers of another engine; give berth a dataset of its own (zfs create, \
         zfs.fsname)"
    )]
    Foreign { name: String },
    #[error(
        "the layers of this data root are in dataset {known}, not in {name}; name it by zfs.fsname, or, if \
         it is gone, remove {}",
        .file.display()
    )]
    Elsewhere { name: String, known: String, file: PathBuf },
    #[error("{} is damaged", .file.display())]
    Home { file: PathBuf },
    #[error("cannot run {program}")]
    Program { program: &'static str, source: io::Error },
    #[error("{command}: {said}")]
    Command { command: String, said: String },
    #[error("{command} says {line:?}, which is not known")]
    Answer { command: &'static str, line: String },
}

impl ZfsError {
    /// Whether the command said that what it was told to use is not there.
    pub(super) fn is_gone(&self) -> bool {
        self.says("dataset does not exist") || self.says("no such pool")
    }

    /// Whether the command said that what it was told to make is there.
    pub(super) fn is_there(&self) -> bool {
        self.says("dataset already exists")
    }

    /// Whether the command said that somebody uses it.
    pub(super) fn is_busy(&self) -> bool {
        self.says("dataset is busy")
    }

    /// Whether the command said that something is a clone of it.
    pub(super) fn has_clones(&self) -> bool {
        self.says("has dependent clones")
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Command { said, .. } if said.contains(words))
    }
}

impl Classify for ZfsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::OtherHome { .. }
            | Self::Unmarked { .. }
            | Self::Foreign { .. }
            | Self::Elsewhere { .. } => ErrorKind::Conflict,
            Self::NoDataset { .. }
            | Self::NoRoot { .. }
            | Self::Home { .. }
            | Self::Program { .. }
            | Self::Command { .. }
            | Self::Answer { .. } => ErrorKind::Internal,
        }
    }
}
