//! Making the pool larger, and taking notice that somebody has.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use super::error::DevicemapperError;
use super::lvm_extend::{self, Wipe};
use super::pool::Parts;
use super::set::{Set, step};
use crate::StorageError;

impl Set {
    /// Makes the files of a pool on files as large as is asked, and has the pool use that.
    pub(super) fn grow(
        &self,
        data: Option<u64>,
        metadata: Option<u64>,
    ) -> Result<(), StorageError> {
        let _one_at_a_time = self.resizing();
        let Some(Parts { data: data_part, metadata: metadata_part }) = &self.pool.parts else {
            let name = self.pool.name.clone();
            return Err(DevicemapperError::NotOnFiles { name }.into());
        };
        // Both are looked at before one is changed.
        let mut wanted = Vec::new();
        for (part, size) in [(metadata_part, metadata), (data_part, data)] {
            if let Some(size) = size {
                part.check_growth(size)?;
                wanted.push((part, size));
            }
        }
        for (part, size) in wanted {
            part.grow_to(size)?;
            step("dm.grow.file");
        }
        self.pool.reload(&self.mapper)?;
        self.watch.wake();
        Ok(())
    }

    /// Adds a disk to the volume group of the pool, and lets the pool have it.
    pub(super) fn extend(&self, device: &Path, wipe: Wipe) -> Result<(), StorageError> {
        let _one_at_a_time = self.resizing();
        let name = &self.pool.name;
        if self.pool.parts.is_some() {
            return Err(DevicemapperError::OnFiles { name: name.clone() }.into());
        }
        let extended = lvm_extend::extend(name, device, wipe);
        self.watch.wake();
        extended
    }

    /// Lets the pool have what its files or devices have grown meanwhile.
    pub(super) fn notice_growth(&self) -> Result<(), StorageError> {
        let Some(parts) = &self.pool.parts else { return Ok(()) };
        let Ok(_one_at_a_time) = self.resizing.try_lock() else { return Ok(()) };
        let metadata_has_grown = parts.metadata.take_growth()?;
        if parts.data.take_growth()? || metadata_has_grown || self.pool.is_behind(&self.mapper)? {
            tracing::info!(pool = self.pool.name, "the thin pool has grown");
            self.pool.reload(&self.mapper)?;
        }
        Ok(())
    }

    fn resizing(&self) -> MutexGuard<'_, ()> {
        // It guards nothing in memory.
        self.resizing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
