//! Putting a layer's content, made anew, in the place of what is damaged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use berth_fs::steps;
use berth_storage::{StorageError, Upkeep};
use berth_types::LayerId;

use super::Ingest;
use crate::files::Note;
use crate::store::Inner;
use crate::{Layer, LayerError, record};

impl Ingest {
    /// Puts the only layer of this ingest, which was applied on what `damaged` stands on, in its
    /// place. The driver's name for the layer stays, so nothing else has to be recorded. Gives where
    /// the damaged content was moved, if there was any.
    ///
    /// At each instant the place holds the old content or the new. What is in neither place when the
    /// process stops has no record, and the next start moves it to lost+found.
    pub(crate) fn take_place_of(
        self,
        damaged: &Layer,
        renew_files: bool,
    ) -> Result<Option<PathBuf>, LayerError> {
        let store = &*self.store;
        let upkeep = store.upkeep()?;
        let new = self.slots.first().map(|slot| slot.layer.clone());
        let (Some(new), Some(applied)) = (new, self.applied().first().cloned().flatten()) else {
            return Err(LayerError::NotApplied { slot: 0 });
        };
        let note = Note {
            diff_id: applied.diff,
            parent: damaged.parent.clone(),
            driver: store.driver.name().to_owned(),
            layer_id: damaged.layer.clone(),
        };
        store.driver.commit(&new)?;
        store.files.complete(&new, &note)?;
        store.driver.sync()?;
        if !store.files_beside_layers(Some(&new)) {
            store.files.sync()?;
        }
        steps::reached("repair.staged");
        let replacing = Replacing::new(store, &new);
        // From here on the name is not berth's to delete: it may be that of the damaged content.
        store.db.write(|tx| Ok::<_, LayerError>(record::forget_intent(tx, &new)?))?;
        steps::reached("repair.before-replace");
        upkeep.replace(&damaged.layer, &new)?;
        steps::reached("repair.replaced");
        let moved = match store.driver.set_aside(&new, &store.lost_and_found) {
            Ok(moved) => Some(moved),
            Err(StorageError::UnknownLayer { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        drop(replacing);
        steps::reached("repair.set-aside");
        if renew_files {
            store.files.renew(&damaged.chain, &new, &store.lost_and_found)?;
        } else {
            store.files.discard_new(&new)?;
        }
        steps::reached("repair.before-record");
        let driver = store.driver.name();
        store.db.write(|tx| {
            if let Some(now) = record::get(tx, driver, &damaged.chain)? {
                record::set_size(tx, driver, &now, applied.size)?;
            }
            Ok::<_, LayerError>(record::forget_damage(tx, driver, &damaged.chain)?)
        })?;
        Ok(moved)
    }
}

/// Keeps a check from taking the layer for one that nobody knows.
struct Replacing<'a> {
    store: &'a Inner,
    layer: &'a LayerId,
}

impl<'a> Replacing<'a> {
    fn new(store: &'a Inner, layer: &'a LayerId) -> Self {
        store.replaced().insert(layer.clone());
        Self { store, layer }
    }
}

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        self.store.replaced().remove(self.layer);
    }
}

impl Inner {
    pub(crate) fn upkeep(&self) -> Result<&dyn Upkeep, LayerError> {
        let driver = self.driver.name();
        self.driver.upkeep().ok_or(LayerError::CannotMend { driver })
    }

    pub(crate) fn replaced(&self) -> MutexGuard<'_, BTreeSet<LayerId>> {
        // Each change is one call, so a panic elsewhere leaves it whole.
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
