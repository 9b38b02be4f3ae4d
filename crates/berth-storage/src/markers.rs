//! Which layers are frozen, where a layer is a directory that has no room to say so itself.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_types::LayerId;

use crate::StorageError;
use crate::error::io_at;
use crate::home::make_dir;

/// The directory's name.
pub(crate) const COMMITTED: &str = "committed";

/// `committed/<id>`: an empty file for each frozen layer.
#[derive(Debug)]
pub(crate) struct Markers(PathBuf);

impl Markers {
    pub(crate) fn open(home: &Path) -> Result<Self, StorageError> {
        let dir = home.join(COMMITTED);
        make_dir(&dir, 0o700)?;
        Ok(Self(dir))
    }

    pub(crate) fn has(&self, id: &LayerId) -> Result<bool, StorageError> {
        let path = self.0.join(id.as_str());
        path.try_exists().map_err(io_at("look at", path))
    }

    pub(crate) fn set(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        let made = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        made.map(drop).map_err(io_at("create", path))
    }

    pub(crate) fn clear(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<LayerId>, StorageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(io_at("list", &self.0))? {
            let name = entry.map_err(io_at("list", &self.0))?.file_name();
            ids.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
        }
        Ok(ids)
    }
}
