//! What interrupted calls left.

use super::driver::Btrfs;
use crate::StorageError;

impl Btrfs {
    /// Removes unfinished layers and the sizes of layers that are gone.
    pub(super) fn clean_up(&self) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.home.stop_creating(&id);
        }
        for id in self.quotas.list()? {
            if !self.home.has(&id)? {
                self.quotas.clear(&id)?;
            }
        }
        Ok(())
    }
}
