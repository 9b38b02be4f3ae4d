//! The base device: an empty file system that layers without a parent begin as.

use berth_sys::{dm, fsinfo};
use rustix::io::Errno;

use super::error::DevicemapperError;
use super::filesystem::{self, Found, begin_layer};
use super::layout;
use super::options::{BASE_SIZE, Fs};
use super::records::{Device, DeviceSet, Role};
use super::set::{Origin, Set, step};
use crate::StorageError;
use crate::error::io_at;

/// A file system leaves an end unused that is too short for one more of its groups.
const UNUSABLE: u64 = 16 << 20;

impl Set {
    /// Makes it, or makes sure that it is the one that the layers were made of.
    pub(super) fn ensure_base(&self) -> Result<(), StorageError> {
        let base = match self.device(&Role::Base)? {
            Some(base) if base.initialized && !base.deleted => self.verify(base)?,
            Some(left) => {
                self.check_unfinished_pool(left.transaction_id)?;
                self.mapper.remove(&self.name(&Role::Base, &left))?;
                self.delete(&Role::Base, &left)?;
                self.make_base()?
            }
            None => {
                self.check_new_pool()?;
                self.make_base()?
            }
        };
        self.deactivate(&self.name(&Role::Base, &base))?;
        let stored = self.records.set()?;
        let begun = layout::begun_base(&self.home)?;
        let mut state = self.state();
        state.base_size = base.size;
        state.fs = Fs::of_name(&stored.fs);
        state.base_is_begun = begun.is_some_and(|uuid| uuid == stored.uuid.as_bytes());
        Ok(())
    }

    /// A pool that somebody else made must be as new.
    fn check_new_pool(&self) -> Result<(), StorageError> {
        let status = self.pool.status(&self.mapper)?;
        let name = self.pool.name.clone();
        if status.used != 0 {
            return Err(DevicemapperError::UsedPool { name }.into());
        }
        // A pool of this driver's own has counted the base devices that were not finished.
        if status.transaction != 0 && self.pool.parts.is_none() {
            return Err(DevicemapperError::OldPool { name }.into());
        }
        Ok(())
    }

    /// Refuses to delete anything from a pool that is not the one that the records speak of; `open` is
    /// the change that is about to be undone.
    pub(super) fn check_pool_before_undoing(&self, open: u64) -> Result<(), StorageError> {
        match self.device(&Role::Base)? {
            Some(base) if base.initialized => self.identify(&base).map(drop),
            _ => self.check_unfinished_pool(open),
        }
    }

    /// A pool whose base device is not finished has counted what the records have, and is written
    /// to after its first change alone.
    fn check_unfinished_pool(&self, open: u64) -> Result<(), StorageError> {
        let status = self.pool.status(&self.mapper)?;
        let name = self.pool.name.clone();
        if status.transaction == 0 && status.used != 0 {
            return Err(DevicemapperError::UsedPool { name }.into());
        }
        let begun = self.records.transaction()?.map_or(0, |begun| begun.open_transaction_id);
        if status.transaction > open.max(begun) && self.pool.parts.is_none() {
            return Err(DevicemapperError::OldPool { name }.into());
        }
        Ok(())
    }

    fn make_base(&self) -> Result<Device, StorageError> {
        let size = self.options.base_size.unwrap_or(BASE_SIZE) / 512 * 512;
        let mut base = self.make(&Role::Base, Origin::Nothing, size)?;
        let fs = filesystem::choose(&self.options);
        self.activate(&Role::Base, &base)?;
        let path = dm::path(&self.name(&Role::Base, &base));
        filesystem::make(fs, &path, &self.options)?;
        step("dm.base.formatted");
        let found = filesystem::probe(&path)?;
        // Here, once, not in each layer that begins as this.
        self.look_in(&path, |_, _, top| {
            begin_layer(top, &Role::Base.to_string())?;
            fsinfo::sync_fs_of(top).map_err(io_at("sync", top))
        })?;
        layout::set_begun_base(&self.home, &found.uuid)?;
        self.sync_pool()?;
        self.remember(&found)?;
        base.initialized = true;
        self.records.set_device(&Role::Base, &base)?;
        step("dm.base.recorded");
        Ok(base)
    }

    fn remember(&self, found: &Found) -> Result<(), StorageError> {
        let next_device_id = self.state().last;
        let (uuid, fs) = (found.uuid.clone(), found.fs.name().to_owned());
        self.records.set_set(&DeviceSet { next_device_id, uuid, fs })
    }

    /// Makes sure that the pool has the base device that is recorded; gives what is on it, and leaves
    /// it active.
    fn identify(&self, base: &Device) -> Result<Option<Found>, StorageError> {
        let stored = self.records.set()?;
        let path = dm::path(&self.name(&Role::Base, base));
        match self.activate(&Role::Base, base) {
            Err(StorageError::Io { source, .. }) if is_unknown_device(&source) => {
                let (name, dir) = (self.pool.name.clone(), self.records.dir().to_owned());
                return Err(DevicemapperError::NoBase { name, dir }.into());
            }
            other => other.map(drop)?,
        }
        let found = match filesystem::probe(&path) {
            Ok(found) => Some(found),
            Err(StorageError::Devicemapper(DevicemapperError::UnknownFs { .. })) => None,
            Err(error) => return Err(error),
        };
        let uuid = found.as_ref().map(|found| found.uuid.clone()).unwrap_or_default();
        if found.is_none() || (!stored.uuid.is_empty() && stored.uuid != uuid) {
            let stored = stored.uuid;
            return Err(DevicemapperError::BaseUuid { found: uuid, stored }.into());
        }
        Ok(found)
    }

    fn verify(&self, mut base: Device) -> Result<Device, StorageError> {
        let found = self.identify(&base)?;
        let stored = self.records.set()?;
        if stored.uuid.is_empty()
            && let Some(found) = &found
        {
            self.remember(found)?;
        }
        let asked = self.options.fs.map_or("", Fs::name);
        let fs = found.as_ref().map_or("", |found| found.fs.name());
        if asked != fs {
            tracing::warn!(
                "Base device already exists and has filesystem {fs} on it. User specified \
                 filesystem {asked} will be ignored."
            );
        }
        if let (Some(size), Some(found)) = (self.options.base_size, found) {
            self.grow_base(&mut base, size, found.size)?;
        }
        Ok(base)
    }

    /// Layers that exist keep their size. `filled` is what the file system has of the device.
    fn grow_base(&self, base: &mut Device, size: u64, filled: u64) -> Result<(), StorageError> {
        let size = size / 512 * 512;
        if size < base.size {
            return Err(DevicemapperError::BaseShrinks { size: base.size }.into());
        }
        let name = self.name(&Role::Base, base);
        let grows = size > base.size;
        if grows {
            // First of all: a file system beyond the end of its device could not be mounted.
            base.size = size;
            self.records.set_device(&Role::Base, base)?;
            self.mapper.reload(&name, &[self.pool.thin(base.device_id, size)])?;
        }
        // Also when the last start was stopped before it came to this; else nothing is mounted, for
        // that writes, and the pool may be full.
        if !grows && size.saturating_sub(filled) < UNUSABLE {
            return Ok(());
        }
        self.look_in(&dm::path(&name), filesystem::grow)
    }
}

/// What the kernel says to a table that names a device that its pool does not have.
fn is_unknown_device(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODATA.raw_os_error())
}
