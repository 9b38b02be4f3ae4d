//! Deleting removed layers, at once or when their last user is gone.

use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use berth_types::LayerId;
use berth_types::kind::chain;

use super::records::{Device, Role};
use super::set::{Set, step};
use crate::StorageError;

/// How long after a failed deletion the next one is tried: often somebody is just about to end.
const SOON: Duration = Duration::from_secs(1);
/// The longest pause between two.
const PERIOD: Duration = Duration::from_secs(30);
/// Blocks of metadata that must be free for blocks to be given up one by one.
const LEAST: u64 = 64;

impl Set {
    /// Takes a layer's name away. Whoever uses it keeps it.
    pub(super) fn take_off(
        &self,
        id: &LayerId,
        role: &Role,
        device: &Device,
    ) -> Result<(), StorageError> {
        let name = self.name(role, device);
        if !self.deferred.deletion {
            // Docker's rule without deferred deletion: a layer in use is not removed.
            self.mapper.remove(&name)?;
        }
        // Nobody activates it between the two.
        let _state = self.state();
        let trash = self.records.free(|again| Role::Removing(id.clone(), again))?;
        if self.mapper.info(&name)?.is_some() {
            self.let_go_of(&name, &self.name(&trash, device))?;
        }
        match self.records.turn(role, &trash) {
            // Somebody else removes it at the same time, and was faster.
            Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Deletes the removed layers that nobody uses. Says whether some are left that somebody does.
    /// Goes on after a failure and gives the first.
    pub(super) fn reap(&self) -> Result<bool, StorageError> {
        let _one_at_a_time = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let trash = self.trash()?;
        if trash.is_empty() {
            return Ok(false);
        }
        self.records.sync()?;
        let (mut first, mut left) = (None, false);
        for (role, device) in trash {
            match self.reap_one(&role, &device) {
                Ok(done) => left |= !done,
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        self.mapper.clear_nodes(&self.prefix)?;
        self.watch.wake();
        first.map_or(Ok(left), Err)
    }

    /// Says whether nobody uses it.
    pub(super) fn reap_one(&self, role: &Role, device: &Device) -> Result<bool, StorageError> {
        let name = self.name(role, device);
        if !self.mapper.remove_if_unused(&name)? {
            return Ok(false);
        }
        if self.options.discards() && self.has_room_to_discard()? {
            // Only space is at stake, which deleting gives back to the pool in any case.
            if let Err(error) = self.discard_blocks(role, device) {
                tracing::debug!(error = chain(&error), name, "cannot discard a layer's blocks");
            }
            self.mapper.remove(&name)?;
        }
        step("dm.reap.discarded");
        self.delete(role, device)?;
        Ok(true)
    }

    /// Giving up blocks one by one takes some of the metadata itself. A pool that runs out of them in
    /// the middle of that has to be checked before it is written to again.
    fn has_room_to_discard(&self) -> Result<bool, StorageError> {
        let status = self.pool.status(&self.mapper)?;
        Ok(status.metadata_total - status.metadata_used >= LEAST)
    }

    /// Removed layers that wait.
    pub(super) fn trash(&self) -> Result<Vec<(Role, Device)>, StorageError> {
        let mut all = Vec::new();
        for role in self.records.roles()? {
            if matches!(role, Role::Removing(..))
                && let Some(device) = self.device(&role)?
            {
                all.push((role, device));
            }
        }
        Ok(all)
    }

    /// Tries again from time to time, until nothing is left or the driver is closed.
    pub(super) fn reap_later(this: &Arc<Self>) {
        let set = Arc::downgrade(this);
        let again = move || {
            let mut pause = SOON;
            loop {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PERIOD);
                let Some(set) = set.upgrade() else { return };
                match set.reap() {
                    Ok(false) => return,
                    Ok(true) => {}
                    Err(error) => tracing::warn!(error = chain(&error), "cannot delete layers"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("dm-deletions".to_owned()).spawn(again);
        if let Err(error) = thread {
            tracing::warn!(%error, "removed layers that are in use wait for the next removal");
        }
    }
}
