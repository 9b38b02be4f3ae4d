//! Names below the home directory.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_types::LayerId;

use crate::StorageError;
use crate::error::io_at;
use crate::home::make_dir;

pub(super) const DIR: &str = "dir";
pub(super) const COMMITTED: &str = "committed";

/// The markers of frozen layers.
#[derive(Debug)]
pub(super) struct Markers(PathBuf);

impl Markers {
    pub(super) fn open(home: &Path) -> Result<Self, StorageError> {
        let dir = home.join(COMMITTED);
        make_dir(&dir, 0o700)?;
        Ok(Self(dir))
    }

    pub(super) fn has(&self, id: &LayerId) -> Result<bool, StorageError> {
        let path = self.0.join(id.as_str());
        path.try_exists().map_err(io_at("look at", path))
    }

    pub(super) fn set(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        let made = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        made.map(drop).map_err(io_at("create", path))
    }

    pub(super) fn clear(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<LayerId>, StorageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(io_at("list", &self.0))? {
            let name = entry.map_err(io_at("list", &self.0))?.file_name();
            ids.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
        }
        Ok(ids)
    }
}
