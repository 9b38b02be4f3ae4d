//! What interrupted calls left.

use berth_sys::mountinfo;
use berth_types::LayerId;

use super::driver::Aufs;
use super::layout::{MNT, ids};
use crate::error::io_at;
use crate::{StorageDriver as _, StorageError};

impl Aufs {
    /// Removes unfinished layers, mounts that nobody holds, and the files of layers that are gone.
    pub(super) fn clean_up(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.home.stop_creating(&id);
        }
        let points = self.root().join(MNT);
        // Each layer has a mount point, so the kernel is asked once for those that are in use.
        for mount in mountinfo::below(&points).map_err(io_at("list the mounts below", &points))? {
            let name = mount.mount_point.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| LayerId::parse(name).ok()) else { continue };
            if !keep(&id)
                && let Err(error) = self.release(&id)
            {
                tracing::warn!(%error, "a left mount stays");
            }
        }
        self.chains.clear_temporary()?;
        let mut known = self.chains.list()?;
        known.extend(self.markers.list()?);
        known.extend(ids(&points)?);
        for id in known {
            if !self.home.has(&id)? && !keep(&id) {
                self.drop_names(&id)?;
            }
        }
        Ok(())
    }
}
