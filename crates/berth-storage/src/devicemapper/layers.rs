//! Layers as devices: the room that they need, how they are filled before they have their name.

use std::fs::File;
use std::path::Path;

use berth_sys::{dm, fsinfo};
use berth_types::LayerId;

use super::error::DevicemapperError;
use super::filesystem::{self, begin_layer, with_mounted};
use super::options::Fs;
use super::pool::{Mode, Status};
use super::records::{Device, Role};
use super::set::{Origin, Set, step};
use crate::StorageError;
use crate::error::io_at;
use crate::home::{ProbeDir, make_dir};

impl Set {
    /// Refuses when the pool is nearly full, or takes no writes.
    pub(super) fn check_space(&self) -> Result<(), StorageError> {
        self.notice_growth()?;
        let (status, usage) = self.watch.look()?;
        let mode = match status.mode {
            Mode::Writes | Mode::OutOfSpace => None,
            Mode::OutOfMetadata => {
                let name = self.pool.name.clone();
                return Err(DevicemapperError::MetadataFull { name }.into());
            }
            Mode::ReadOnly => Some("read-only"),
            Mode::NeedsCheck => Some("its metadata need a check"),
        };
        if let Some(mode) = mode {
            let name = self.pool.name.clone();
            return Err(DevicemapperError::PoolMode { name, mode }.into());
        }
        self.check_min_free(&status)?;
        let (what, space) = usage.fuller();
        match self.options.levels().stop {
            Some(stop) if space.permille() >= stop * 10 => {
                let (name, percent) = (usage.name.clone(), space.permille() / 10);
                Err(DevicemapperError::StopLevel { name, what, percent, stop }.into())
            }
            _ => Ok(()),
        }
    }

    /// By Docker's rule.
    fn check_min_free(&self, status: &Status) -> Result<(), StorageError> {
        if self.options.min_free == 0 {
            return Ok(());
        }
        #[rustfmt::skip]
        let kinds = [
            ("data",     "space",          status.used,          status.total),
            ("metadata", "metadata space", status.metadata_used, status.metadata_total),
        ];
        for (what, room, used, total) in kinds {
            let least = (total * self.options.min_free / 100).max(1);
            let free = total.saturating_sub(used);
            if free < least {
                return Err(DevicemapperError::NearlyFull { free, least, what, room }.into());
            }
        }
        Ok(())
    }

    /// Makes a layer, whose size is that of its parent unless a larger one is asked for. One of an
    /// image may be the spare.
    pub(super) fn make_layer(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        size: Option<u64>,
        of_image: bool,
    ) -> Result<(), StorageError> {
        let below = parent.map_or(Role::Base, |parent| Role::Layer(parent.clone()));
        let Some(parent_device) = self.device(&below)? else {
            let name = below.to_string();
            return Err(DevicemapperError::NonExisting { name }.into());
        };
        if let Some(size) = size.filter(|&size| size < parent_device.size) {
            let least = parent_device.size;
            tracing::debug!(size, least, "a layer that is smaller than its parent");
            return Err(DevicemapperError::ContainerShrinks { size: least }.into());
        }
        self.check_space()?;
        let origin = Origin::SnapshotOf(&below);
        let size = size.unwrap_or(parent_device.size) / 512 * 512;
        let layer = Role::Layer(id.clone());
        let is_begun = parent.is_some() || self.state().base_is_begun;
        if is_begun && size == parent_device.size {
            if of_image && parent.is_none() && self.take_spare(id, size)? {
                return Ok(());
            }
            return self.make(&layer, origin, size).map(drop);
        }
        let staged = Role::Creating(id.clone());
        self.discard_staged(id)?;
        let device = self.make(&staged, origin, size)?;
        let filled = self.fill(id, !is_begun, &staged, &device);
        step("dm.create.filled");
        let published = filled.and_then(|()| {
            self.records.turn(&staged, &layer)?;
            self.records.sync()
        });
        if published.is_err()
            && let Err(error) = self.discard_staged(id)
        {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, layer = %id, "an unfinished layer stays until the next start");
        }
        published
    }

    fn fill(
        &self,
        id: &LayerId,
        begins: bool,
        staged: &Role,
        device: &Device,
    ) -> Result<(), StorageError> {
        self.activate(staged, device)?;
        let name = self.name(staged, device);
        let done = self.look_in(&dm::path(&name), |fs, path, top| {
            if device.size > self.state().base_size || !begins {
                filesystem::grow(fs, path, top)?;
            }
            if begins {
                begin_layer(top, id.as_str())?;
            }
            fsinfo::sync_fs_of(top).map_err(io_at("sync", top))
        });
        self.mapper.remove(&name)?;
        done
    }

    /// Removes a layer that is not finished. None is fine.
    pub(super) fn discard_staged(&self, id: &LayerId) -> Result<(), StorageError> {
        let staged = Role::Creating(id.clone());
        let Some(device) = self.device(&staged)? else { return Ok(()) };
        self.mapper.remove(&self.name(&staged, &device))?;
        self.delete(&staged, &device)
    }

    /// Mounts a device where nobody sees it.
    pub(super) fn look_in(
        &self,
        path: &Path,
        work: impl FnOnce(Fs, &Path, &Path) -> Result<(), StorageError> + Send,
    ) -> Result<(), StorageError> {
        let fs = filesystem::probe(path)?.fs;
        let scratch = self.home.join("tmp");
        make_dir(&scratch, 0o700)?;
        let place = ProbeDir::new(&scratch)?;
        with_mounted(fs, path, place.path(), &self.options, |top| work(fs, path, top))
    }

    /// Gives up a removed layer's blocks, as far as no other layer has them.
    pub(super) fn discard_blocks(&self, role: &Role, device: &Device) -> Result<(), StorageError> {
        self.activate(role, device)?;
        let path = dm::path(&self.name(role, device));
        let opened = File::options().read(true).write(true).open(&path);
        opened.and_then(|file| berth_sys::block::discard_all(&file)).map_err(io_at("discard", path))
    }
}
