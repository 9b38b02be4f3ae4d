//! What interrupted calls left.

use super::driver::Vfs;
use crate::StorageError;

impl Vfs {
    /// Removes unfinished layers and the markers of layers that are gone.
    pub(super) fn clean_up(&self) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.home.stop_creating(&id);
        }
        for id in self.markers.list()? {
            if !self.home.has(&id)? {
                self.markers.clear(&id)?;
            }
        }
        Ok(())
    }
}
