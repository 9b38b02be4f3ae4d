//! What interrupted calls left.

use super::destroy::destroy;
use super::driver::Btrfs;
use crate::StorageError;

impl Btrfs {
    /// Removes unfinished layers, copies that were being sent and the sizes of layers that are gone.
    pub(super) fn clean_up(&self) -> Result<(), StorageError> {
        for (_, path) in self.home.unfinished()? {
            if let Err(error) = destroy(&path) {
                // The name marks it for the next recovery.
                tracing::warn!(%error, path = %path.display(), "cannot remove an unfinished layer");
            }
        }
        for id in self.quotas.list()? {
            if !self.home.has(&id)? {
                self.quotas.clear(&id)?;
            }
        }
        Ok(())
    }
}
