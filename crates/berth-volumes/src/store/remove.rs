//! Removing volumes: the directory moves to its removal name, the record goes, and only then the
//! content. [`recover`](VolumeStore::recover) undoes it before the commit and finishes it after.

use std::io;

use berth_fs::{atomic, steps};

use super::attach::unmount_leftover;
use super::{Volume, VolumeStore, records};
use crate::VolumeError;
use crate::names::VolumePaths;

impl VolumeStore {
    /// Removes a volume that no container refers to, and its content.
    pub fn remove(&self, name: &str) -> Result<Volume, VolumeError> {
        let _held = self.busy.hold(&[name]);
        let volume = self.get(name)?;
        self.remove_held(&volume)?;
        Ok(volume)
    }

    /// The caller holds the name, so no container can begin to use the volume meanwhile.
    pub(super) fn remove_held(&self, volume: &Volume) -> Result<(), VolumeError> {
        let name = &volume.name;
        let paths = self.paths(name);
        let users = self.db.read(|conn| records::users(conn, name))?;
        if !users.is_empty() {
            return Err(VolumeError::InUse { name: name.clone(), users });
        }
        unmount_leftover(&paths)?;
        let moved = self.move_aside(&paths)?;
        steps::reached("volume-rm.renamed");
        if let Err(error) = self.db.write(|tx| records::delete(tx, name)) {
            if moved && let Err(undo) = std::fs::rename(&paths.remove, &paths.home) {
                tracing::error!(volume = name, error = %undo, "a volume keeps its removal name");
            }
            return Err(error.into());
        }
        steps::reached("volume-rm.after-record");
        // The volume is gone for every client; what cannot be unlinked goes at the next start.
        if moved && let Err(error) = std::fs::remove_dir_all(&paths.remove) {
            tracing::warn!(volume = name, %error, "content of a removed volume stays for now");
        }
        Ok(())
    }

    /// Whether there was a directory.
    fn move_aside(&self, paths: &VolumePaths) -> Result<bool, VolumeError> {
        match std::fs::remove_dir_all(&paths.remove) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(VolumeError::io("remove the stale", &paths.remove)(error));
            }
            _ => {}
        }
        match std::fs::rename(&paths.home, &paths.remove) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(VolumeError::io("remove", &paths.home)(error)),
        }
        atomic::sync_dir(&self.root).map_err(VolumeError::io("sync", &self.root))?;
        Ok(true)
    }
}
