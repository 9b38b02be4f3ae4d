//! What interrupted calls left.

use std::fs;

use super::driver::Overlay;
use super::layout::MERGED;
use crate::StorageError;
use crate::home::clear_mount_point;

impl Overlay {
    /// Removes unfinished layers, and mounts that nobody holds.
    pub(super) fn clean_up(
        &self,
        keep: &dyn Fn(&berth_types::LayerId) -> bool,
    ) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.home.stop_creating(&id);
        }
        for id in self.home.list()? {
            let merged = self.home.layer(&id).join(MERGED);
            // Most layers have none, and looking is cheaper than trying to unmount.
            if !keep(&id)
                && fs::symlink_metadata(&merged).is_ok()
                && let Err(error) = clear_mount_point(&merged)
            {
                tracing::warn!(%error, "a left mount point stays");
            }
        }
        Ok(())
    }
}
