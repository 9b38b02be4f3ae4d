//! `docker volume prune`: local volumes without options that no container refers to.

use super::{Volume, VolumeStore, records};
use crate::{PruneFilter, VolumeError, VolumeFilter};

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names of the removed volumes.
    pub removed: Vec<String>,
    /// The bytes that came back.
    pub reclaimed: u64,
}

impl VolumeStore {
    /// Removes what `docker volume prune` removes. A volume that cannot be removed is skipped and
    /// logged.
    pub fn prune(&self, filter: &PruneFilter) -> Result<Pruned, VolumeError> {
        let mut pruned = Pruned::default();
        let used = self.db.read(records::used_names)?;
        for volume in self.list(&VolumeFilter::default())? {
            if used.contains(&volume.name) || !volume.options.is_empty() || !filter.takes(&volume) {
                continue;
            }
            match self.prune_one(&volume) {
                Ok(Some(size)) => {
                    pruned.removed.push(volume.name);
                    pruned.reclaimed += size;
                }
                Ok(None) => {}
                Err(error) => {
                    let error = berth_types::kind::chain(&error);
                    tracing::warn!(volume = volume.name, error, "could not prune a volume");
                }
            }
        }
        Ok(pruned)
    }

    /// The bytes that came back; `None` when it is gone or in use by now.
    fn prune_one(&self, volume: &Volume) -> Result<Option<u64>, VolumeError> {
        let _held = self.busy.hold(&[&volume.name]);
        if self.find(&volume.name)?.as_ref() != Some(volume) {
            return Ok(None);
        }
        let size = self.usage(volume)?.unwrap_or(0);
        match self.remove_held(volume) {
            Ok(()) => Ok(Some(size)),
            Err(VolumeError::InUse { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
