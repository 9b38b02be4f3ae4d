//! Names and small files of a layer.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use berth_types::LayerId;

use crate::StorageError;
use crate::error::io_at;

pub(super) const ROOT: &str = "root";
pub(super) const UPPER: &str = "upper";
pub(super) const WORK: &str = "work";
pub(super) const MERGED: &str = "merged";
pub(super) const LOWER_ID: &str = "lower-id";
pub(super) const COMMITTED: &str = "committed";

/// What a layer's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A full tree.
    Root,
    /// Changes to the full tree of this layer.
    Upper(LayerId),
}

/// Which form the layer at `dir` has.
pub(super) fn form(id: &LayerId, dir: &Path) -> Result<Form, StorageError> {
    let root = dir.join(ROOT);
    if root.try_exists().map_err(io_at("look at", root))? {
        return Ok(Form::Root);
    }
    let damaged = || StorageError::Damaged { id: id.clone(), what: "file lower-id" };
    let path = dir.join(LOWER_ID);
    match fs::read_to_string(&path) {
        Ok(text) => match LayerId::parse(text.trim()) {
            Ok(lower) => Ok(Form::Upper(lower)),
            Err(_) => Err(damaged()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged()),
        Err(error) => Err(io_at("read", path)(error)),
    }
}

/// Whether the layer at `dir` is frozen.
pub(super) fn is_committed(dir: &Path) -> Result<bool, StorageError> {
    let marker = dir.join(COMMITTED);
    marker.try_exists().map_err(io_at("look at", marker))
}

/// Freezes the layer at `dir`.
pub(super) fn set_committed(dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(COMMITTED);
    let made = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    made.map(drop).map_err(io_at("create", path))
}
