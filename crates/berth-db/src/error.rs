//! Why the record database failed.

use std::io;
use std::path::{Path, PathBuf};

use berth_types::{Classify, ErrorKind};
use rusqlite::ErrorCode;
use rustix::io::Errno;

/// Why the record database failed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("cannot open the record database {}", .path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("cannot write the record database")]
    Full(#[source] io::Error),
    #[error("the record database failed")]
    Sql(#[source] rusqlite::Error),
    #[error(
        "the tables of {schema} have version {found}, and this version of berth knows {known}: \
         use the berth that wrote them, or a newer one"
    )]
    TooNew { schema: &'static str, found: u32, known: u32 },
    #[error("a record in table {table} cannot be read")]
    Damaged { table: &'static str },
}

impl DbError {
    pub(crate) fn open(path: &Path, source: rusqlite::Error) -> Self {
        match Self::from(source) {
            Self::Sql(source) => Self::Open { path: path.to_owned(), source },
            full => full,
        }
    }
}

impl From<rusqlite::Error> for DbError {
    fn from(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            // In the system's words, which Docker's clients know.
            Some(ErrorCode::DiskFull) => Self::Full(Errno::NOSPC.into()),
            _ => Self::Sql(source),
        }
    }
}

impl Classify for DbError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { .. }
            | Self::Full(_)
            | Self::Sql(_)
            | Self::TooNew { .. }
            | Self::Damaged { .. } => ErrorKind::Internal,
        }
    }
}
