//! Which container uses which volume. A container refers to all its volumes from its creation to
//! its removal, running or not.

use std::collections::HashMap;

use berth_db::{DbError, Tx, params};

use super::{VolumeRef, VolumeStore, records};
use crate::VolumeError;
use crate::mounts::{ContainerMount, MountKind};

impl VolumeStore {
    /// Records that `container` uses the volumes among `mounts`.
    ///
    /// The caller holds the names, by the [`Staged`](super::Staged) that
    /// [`stage`](Self::stage) gave it, so that nobody removes one of them meanwhile.
    pub fn add_refs(
        &self,
        tx: &Tx<'_>,
        container: &str,
        mounts: &[ContainerMount],
    ) -> Result<(), VolumeError> {
        let mut insert = tx
            .prepare_cached(
                "INSERT OR IGNORE INTO volume_refs (volume, container, destination) \
                 VALUES (?1, ?2, ?3)",
            )
            .map_err(DbError::from)?;
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Volume) {
            insert
                .execute(params![mount.volume, container, mount.destination])
                .map_err(DbError::from)?;
        }
        Ok(())
    }

    /// Forgets what `container` uses.
    pub fn remove_refs(&self, tx: &Tx<'_>, container: &str) -> Result<(), VolumeError> {
        tx.prepare_cached("DELETE FROM volume_refs WHERE container = ?1")
            .and_then(|mut statement| statement.execute([container]))
            .map_err(DbError::from)?;
        Ok(())
    }

    /// Every reference, by volume.
    pub fn refs(&self) -> Result<Vec<VolumeRef>, VolumeError> {
        Ok(self.db.read(records::refs)?)
    }

    /// How many containers refer to each volume; a volume that nobody uses is not in it.
    pub fn use_counts(&self) -> Result<HashMap<String, i64>, VolumeError> {
        Ok(self.db.read(records::use_counts)?)
    }
}
