//! Why a log operation failed.

use std::io;
use std::path::PathBuf;

use berth_types::{Classify, ErrorKind};

/// Why a log operation failed. The texts of refused options are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("error looking up logging plugin {name}: plugin \"{name}\" not found")]
    UnknownDriver { name: String },
    #[error("logging driver {name} is not supported by this version of berth")]
    UnsupportedDriver { name: String },
    #[error("unknown log opt '{option}' for {driver} log driver")]
    UnknownOption { driver: &'static str, option: String },
    #[error("{text}")]
    BadOption { text: String },
    #[error("logging driver option {option} is not supported by this version of berth")]
    UnsupportedOption { option: String },
    #[error("configured logging driver does not support reading")]
    NotReadable,
    #[error("cannot {action} log file {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
}

impl Classify for LogError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownDriver { .. } | Self::UnknownOption { .. } | Self::BadOption { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::UnsupportedDriver { .. } | Self::UnsupportedOption { .. } | Self::NotReadable => {
                ErrorKind::NotImplemented
            }
            Self::File { .. } => ErrorKind::Internal,
        }
    }
}
