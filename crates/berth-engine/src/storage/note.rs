//! `backup.json`: what a backup is of. A directory without it is no complete backup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_types::Owner;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

const NAME: &str = "backup.json";
/// The format that this version writes.
const FORMAT: u32 = 1;
/// The format where layers hold ids of the host.
const FORMAT_REMAPPED: u32 = 2;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    format: u32,
    /// The storage driver.
    pub(super) driver: String,
    /// Where the data root was.
    pub(super) data_root: PathBuf,
    /// When it was finished.
    pub(super) created: String,
    /// Whether the content of volumes is in it.
    pub(super) volumes: bool,
    /// What containers' root is on the host, where that is not the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
}

impl Note {
    pub(super) fn new(driver: &str, data_root: &Path, owner: Owner, volumes: bool) -> Self {
        let created = super::backup::now();
        let (driver, data_root) = (driver.to_owned(), data_root.to_owned());
        let owner = Some(owner).filter(|owner| *owner != Owner::ROOT);
        let format = if owner.is_some() { FORMAT_REMAPPED } else { FORMAT };
        Self { format, driver, data_root, created, volumes, owner }
    }

    /// What containers' root is on the host.
    pub(super) fn owner(&self) -> Owner {
        self.owner.unwrap_or(Owner::ROOT)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), EngineError> {
        let mut text = serde_json::to_string(self).expect("plain fields");
        text.push('\n');
        let path = dir.join(NAME);
        berth_fs::atomic::write(&path, text.as_bytes()).map_err(EngineError::io("write", &path))
    }

    pub(super) fn read(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(EngineError::NotBackup { path: dir.to_owned() });
            }
            other => other.map_err(EngineError::io("read", &path))?,
        };
        let note: Self = serde_json::from_slice(&text)
            .map_err(|source| EngineError::BackupNote { path: dir.to_owned(), source })?;
        if note.format > FORMAT_REMAPPED {
            let found = note.format;
            return Err(EngineError::BackupTooNew { path: dir.to_owned(), found });
        }
        Ok(note)
    }
}
