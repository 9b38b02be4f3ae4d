//! Making devices and files agree at the start, and letting go of devices at the end.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_fs::copy::{self, Xattrs};
use berth_fs::root::Root;
use berth_sys::dm;
use berth_types::LayerId;
use berth_types::kind::chain;

use super::driver::NAME;
use super::filesystem::ROOT;
use super::layout;
use super::records::Role;
use super::set::Set;
use crate::StorageError;
use crate::error::io_at;
use crate::home::{clear_mount_point, clear_temporaries, free_mount_point, make_dir};

/// How long a device that is not mounted and in use all the same is waited for at the end.
const TRIES: u32 = 50;
const NAP: Duration = Duration::from_millis(100);

impl Set {
    /// Undoes what the last process left half-done or mounted.
    pub(super) fn clean_up(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.wake_all()?;
        clear_temporaries(&self.home)?;
        self.records.clear_temporaries()?;
        let (mounted, frozen) = layout::named(&self.home)?;
        for id in mounted.iter().filter(|id| !keep(id)) {
            let point = layout::mount_point(&self.home, id);
            if self.records.has(&Role::Layer(id.clone()))? {
                free_mount_point(&point)?;
            } else {
                clear_mount_point(&point)?;
            }
        }
        for (role, device) in self.records.devices()? {
            // Whoever mounts makes it too: a full disk must not keep the daemon from its start.
            if let Role::Layer(id) = &role
                && let Err(error) = layout::make_mount_point(&self.home, id)
            {
                tracing::warn!(error = chain(&error), layer = %id, "no mount point");
            }
            match &role {
                Role::Layer(id) if keep(id) => {}
                Role::Creating(id) => self.discard_staged(id)?,
                Role::Base
                | Role::Layer(_)
                | Role::Removing(..)
                | Role::Aside(..)
                | Role::Spare
                | Role::Snapshot(_) => {
                    self.deactivate(&self.name(&role, &device))?;
                }
            }
        }
        self.find_spare()?;
        for id in frozen {
            if !self.records.has(&Role::Layer(id.clone()))? {
                layout::clear_committed(&self.home, &id)?;
            }
        }
        self.mapper.clear_nodes(&self.prefix)
    }

    /// A process that was stopped while it took a snapshot left a device asleep, and whoever
    /// uses that with it.
    fn wake_all(&self) -> Result<(), StorageError> {
        for name in self.own_names()? {
            if self.mapper.info(&name)?.is_some_and(|info| info.is_suspended && info.is_active) {
                tracing::warn!(name, "a device stood still");
                self.mapper.resume(&name)?;
            }
        }
        Ok(())
    }

    /// The devices of this home that are active, without the pool.
    fn own_names(&self) -> Result<Vec<String>, StorageError> {
        let begin = format!("{}-", self.prefix);
        let mut names = self.mapper.names()?;
        names.retain(|name| name.starts_with(&begin) && *name != self.pool.name);
        Ok(names)
    }

    /// Copies a layer to where an administrator finds it, and deletes it. When that fails, for
    /// example for want of space, the device stays under another name.
    pub(super) fn move_aside(
        &self,
        id: &LayerId,
        lost_and_found: &Path,
    ) -> Result<PathBuf, StorageError> {
        let role = Role::Layer(id.clone());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let to = lost_and_found.join(format!("{NAME}-{id}-{now}"));
        make_dir(lost_and_found, 0o700)?;
        if let Err(error) = self.copy_layer(&role, &to) {
            let aside = self.records.free(|again| Role::Aside(id.clone(), again))?;
            self.records.turn(&role, &aside)?;
            self.records.sync()?;
            let error = chain(&error);
            tracing::error!(error, layer = %id, "cannot copy a layer: its device stays");
            return Ok(self.records.dir().join(aside.to_string()));
        }
        let trash = self.records.free(|again| Role::Removing(id.clone(), again))?;
        self.records.turn(&role, &trash)?;
        self.records.sync()?;
        Ok(to)
    }

    fn copy_layer(&self, role: &Role, to: &Path) -> Result<(), StorageError> {
        let Some(device) = self.device(role)? else { return Ok(()) };
        self.activate(role, &device)?;
        let name = self.name(role, &device);
        let copied = self.look_in(&dm::path(&name), |_, _, top| {
            let open = |path: &Path| Root::open(path).map_err(io_at("open", path));
            make_dir(to, 0o755)?;
            let done = copy::tree(&open(&top.join(ROOT))?, &open(to)?, Xattrs::All);
            done.map_err(|error| io_at("copy a layer to", to)(std::io::Error::other(error)))?;
            berth_sys::fsinfo::sync_fs_of(to).map_err(io_at("sync", to))
        });
        self.deactivate(&name)?;
        if copied.is_err() {
            crate::delete::delete_tree(to).map_err(io_at("remove", to))?;
        }
        copied
    }

    /// Lets go of what nobody uses; of the pool too, if it is the driver's own.
    pub(super) fn close(&self) -> Result<(), StorageError> {
        self.watch.end();
        self.spares.close();
        // A deletion has a device active for a moment.
        let _after_deletions = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let is_used = self.let_go_of_all()?;
        let next_device_id = self.state().last;
        self.records
            .set_set(&super::records::DeviceSet { next_device_id, ..self.records.set()? })?;
        if self.pool.parts.is_some() && !is_used {
            self.let_go_of_pool()?;
        }
        self.mapper.clear_nodes(&self.prefix)
    }

    fn let_go_of_pool(&self) -> Result<(), StorageError> {
        if let Some(file) = self.pool.lost_file()? {
            tracing::error!(
                file = %file.display(),
                pool = self.pool.name,
                "a loopback file is gone: the pool stays, for its device alone has the content"
            );
            return Ok(());
        }
        self.mapper.remove(&self.pool.name)
    }

    /// Says whether a device stays. One that is mounted does; one that is held by a copy of a mount,
    /// in a mount namespace that is about to end, is waited for, and in the end goes with that.
    fn let_go_of_all(&self) -> Result<bool, StorageError> {
        let mut held = Vec::new();
        for _ in 0..TRIES {
            held.clear();
            for name in self.own_names()? {
                if !self.mapper.remove_if_unused(&name)? {
                    held.push(name);
                }
            }
            if held.is_empty() {
                return Ok(false);
            }
            if held.iter().all(|name| is_mounted(&dm::path(name))) {
                return Ok(true);
            }
            std::thread::sleep(NAP);
        }
        for name in held.iter().filter(|name| !is_mounted(&dm::path(name))) {
            if let Err(error) = self.mapper.remove_deferred(name) {
                tracing::warn!(error = chain(&error), name, "a device that is in use stays");
            }
        }
        Ok(true)
    }
}

fn is_mounted(device: &Path) -> bool {
    let begin = format!("{} ", device.display());
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table.lines().any(|line| line.starts_with(&begin))
}

impl Drop for Set {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(error = chain(&error), "devices of the devicemapper driver stay");
        }
    }
}
