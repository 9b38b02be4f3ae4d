//! The devices of one pool: making and deleting them so that a stop at any instant is undone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_fs::steps;
use berth_sys::dm::{self, Info};
use rustix::io::Errno;

use super::driver::NAME;
use super::error::DevicemapperError;
use super::mapper::Mapper;
use super::options::{Deferred, Fs, Options};
use super::pool::{Mode, Pool};
use super::records::{Device, Records, Role, Transaction};
use super::spare::Spares;
use super::watch::Watch;
use crate::StorageError;
use crate::error::io_at;

const MAX_ID: u32 = 0xff_ffff;
/// How long a device that is just going is waited for.
const TRIES: u32 = 100;
const NAP: Duration = Duration::from_millis(100);

/// The devices of one pool, and the pool.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) mapper: Arc<Mapper>,
    pub(super) watch: Arc<Watch>,
    pub(super) options: Options,
    pub(super) deferred: Deferred,
    pub(super) home: PathBuf,
    /// `docker-MAJOR:MINOR-INODE` of the home directory.
    pub(super) prefix: String,
    pub(super) pool: Pool,
    pub(super) records: Records,
    pub(super) state: Mutex<State>,
    pub(super) spares: Arc<Spares>,
    /// Held while removed layers are deleted.
    pub(super) reaping: Mutex<()>,
    /// Held while the pool is made larger.
    pub(super) resizing: Mutex<()>,
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The pool's transaction.
    pub(super) transaction: u64,
    /// Numbers of devices that are in use.
    pub(super) used: BTreeSet<u32>,
    /// The number given last.
    pub(super) last: u32,
    /// The file system of the base device, and its size.
    pub(super) fs: Option<Fs>,
    pub(super) base_size: u64,
    /// The base device has a layer's directory: not if Docker made it.
    pub(super) base_is_begun: bool,
}

impl State {
    /// The next number that is free, after the one given last.
    fn next(&mut self) -> Result<u32, StorageError> {
        let free = |id: &u32| !self.used.contains(id);
        let next = (self.last + 1..=MAX_ID).chain(0..=self.last).find(free);
        let id = next.ok_or(DevicemapperError::NoId)?;
        self.used.insert(id);
        self.last = id;
        Ok(id)
    }
}

/// How a new device begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    Nothing,
    SnapshotOf(&'a Role),
}

impl Set {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, or is repeated by the kernel's word.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name in `/dev/mapper`.
    pub(super) fn name(&self, role: &Role, device: &Device) -> String {
        match role {
            Role::Base => format!("{}-base", self.prefix),
            Role::Layer(id) => format!("{}-{id}", self.prefix),
            Role::Creating(_) => format!("{}-creating-{}", self.prefix, device.device_id),
            Role::Removing(..) | Role::Aside(..) => {
                format!("{}-removing-{}", self.prefix, device.device_id)
            }
            Role::Snapshot(_) => format!("{}-snapshot-{}", self.prefix, device.device_id),
            Role::Spare => format!("{}-spare-{}", self.prefix, device.device_id),
        }
    }

    pub(super) fn device(&self, role: &Role) -> Result<Option<Device>, StorageError> {
        self.records.device(role)
    }

    /// Makes a device and its record.
    pub(super) fn make(
        &self,
        role: &Role,
        origin: Origin<'_>,
        size: u64,
    ) -> Result<Device, StorageError> {
        let mut state = self.state();
        loop {
            let id = state.next()?;
            match self.make_with(&mut state, id, role, origin, size) {
                Ok(Some(device)) => return Ok(device),
                // The pool has one of this number that no file knows. It stays as it is.
                Ok(None) => tracing::warn!(id, "Device Id Exists"),
                Err(error) => {
                    state.used.remove(&id);
                    return Err(error);
                }
            }
        }
    }

    fn make_with(
        &self,
        state: &mut State,
        id: u32,
        role: &Role,
        origin: Origin<'_>,
        size: u64,
    ) -> Result<Option<Device>, StorageError> {
        let open = self.begin(state, role, id)?;
        let made = match origin {
            Origin::Nothing => self.mapper.message(&self.pool.name, &format!("create_thin {id}")),
            Origin::SnapshotOf(parent) => self.snapshot(id, parent)?,
        };
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(io_at("make a device in", dm::path(&self.pool.name))(error)),
        }
        step("dm.create.made");
        let device = Device {
            device_id: id,
            size,
            transaction_id: open,
            initialized: false,
            deleted: false,
        };
        let recorded = self.records.set_device(role, &device);
        step("dm.create.recorded");
        if let Err(error) = recorded.and_then(|()| self.end(state, open)) {
            self.undo(id, role);
            return Err(error);
        }
        step("dm.create.closed");
        Ok(Some(device))
    }

    /// What the kernel says to the message is the inner result.
    fn snapshot(&self, id: u32, parent: &Role) -> Result<std::io::Result<()>, StorageError> {
        let Some(device) = self.device(parent)? else {
            let name = parent.to_string();
            return Err(DevicemapperError::NonExisting { name }.into());
        };
        let name = self.name(parent, &device);
        // Its file system is whole while the snapshot is taken. One that is not active is so already.
        let is_asleep = self.mapper.suspend(&name)?;
        if is_asleep {
            step("dm.create.suspended");
        }
        let text = format!("create_snap {id} {}", device.device_id);
        let made = self.mapper.message(&self.pool.name, &text);
        if is_asleep {
            self.mapper.resume(&name)?;
        }
        Ok(made)
    }

    /// Takes back a device that is not recorded whole.
    fn undo(&self, id: u32, role: &Role) {
        let deleted = self.mapper.message(&self.pool.name, &format!("delete {id}"));
        let forgotten = self.records.forget(role);
        if deleted.is_err() || forgotten.is_err() {
            tracing::warn!(?deleted, ?forgotten, id, "a device that is not whole stays");
        }
    }

    /// Deletes a device and its record.
    pub(super) fn delete(&self, role: &Role, device: &Device) -> Result<(), StorageError> {
        let id = device.device_id;
        let mut state = self.state();
        let open = self.begin(&state, role, id)?;
        self.ensure_changes()?;
        self.delete_from_pool(id)?;
        step("dm.delete.deleted");
        self.records.forget(role)?;
        step("dm.delete.forgotten");
        self.ensure_changes()?;
        self.end(&mut state, open)?;
        state.used.remove(&id);
        Ok(())
    }

    /// A pool without free metadata takes no messages until it is loaded once more; it keeps some
    /// blocks back for what frees others.
    fn ensure_changes(&self) -> Result<(), StorageError> {
        match self.pool.status(&self.mapper)?.mode {
            Mode::OutOfMetadata => self.pool.reload(&self.mapper),
            Mode::Writes | Mode::OutOfSpace | Mode::ReadOnly | Mode::NeedsCheck => Ok(()),
        }
    }

    /// One that is gone is fine.
    fn delete_from_pool(&self, id: u32) -> Result<(), StorageError> {
        match self.mapper.message(&self.pool.name, &format!("delete {id}")) {
            Err(error) if error.raw_os_error() != Some(Errno::NODATA.raw_os_error()) => {
                Err(io_at("delete a device of", dm::path(&self.pool.name))(error))
            }
            _ => Ok(()),
        }
    }

    /// Notes what is about to be done, so that a stop in the middle of it is undone.
    fn begin(&self, state: &State, role: &Role, device_id: u32) -> Result<u64, StorageError> {
        let open = state.transaction + 1;
        let device_hash = match role {
            Role::Base | Role::Spare | Role::Snapshot(_) => String::new(),
            Role::Layer(id) | Role::Creating(id) | Role::Removing(id, _) | Role::Aside(id, _) => {
                id.to_string()
            }
        };
        let begun = Transaction { open_transaction_id: open, device_hash, device_id };
        self.records.set_transaction(&begun)?;
        step("dm.begun");
        Ok(open)
    }

    fn end(&self, state: &mut State, open: u64) -> Result<(), StorageError> {
        let text = format!("set_transaction_id {} {open}", state.transaction);
        let ended = self.mapper.message(&self.pool.name, &text);
        ended.map_err(io_at("end a change of", dm::path(&self.pool.name)))?;
        state.transaction = open;
        Ok(())
    }

    /// Undoes the change that was begun and not ended, if there is one. Gives the pool's
    /// transaction.
    pub(super) fn roll_back(&self) -> Result<u64, StorageError> {
        let found = self.pool.status(&self.mapper)?.transaction;
        let Some(begun) = self.records.transaction()? else { return Ok(found) };
        let open = begun.open_transaction_id;
        if open < found {
            tracing::error!("Open Transaction id {open} is less than pool transaction id {found}");
        }
        if open <= found {
            return Ok(found);
        }
        if open > found + 1 {
            // Not a change that was interrupted: acknowledged ones are missing.
            let (name, dir) = (self.pool.name.clone(), self.records.dir().to_owned());
            let expected = open;
            return Err(DevicemapperError::OtherPool { name, found, expected, dir }.into());
        }
        self.check_pool_before_undoing(open)?;
        self.delete_interrupted(begun.device_id)?;
        self.records.forget_transaction()?;
        Ok(found)
    }

    fn delete_interrupted(&self, id: u32) -> Result<(), StorageError> {
        // By number: a name may have had several lives.
        for (role, device) in self.records.devices()? {
            if device.device_id == id {
                let name = self.name(&role, &device);
                self.mapper.remove(&name)?;
                self.records.forget(&role)?;
            }
        }
        if let Err(error) = self.delete_from_pool(id) {
            let error = berth_types::kind::chain(&error);
            tracing::error!(error, id, "an interrupted change is not undone");
        }
        Ok(())
    }

    /// Makes a device usable; one that is, stays so.
    pub(super) fn activate(&self, role: &Role, device: &Device) -> Result<Info, StorageError> {
        let name = self.name(role, device);
        let table = [self.pool.thin(device.device_id, device.size)];
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(NAP);
            }
            // Not while a snapshot of it is taken: resuming would end its rest too early.
            let _state = self.state();
            if !self.records.has(role)? {
                return Err(unknown(role));
            }
            let Some(info) = self.mapper.info(&name)? else {
                return self.mapper.make(&name, &table);
            };
            if !info.is_active {
                // Somebody was stopped in the middle of making it.
                self.mapper.remove_if_unused(&name)?;
                continue;
            }
            if self.mapper.table(&name)? != table {
                // Of an earlier life of the name. It goes with its last user.
                self.let_go_of(&name, &format!("{}-stale-{}", self.prefix, device.device_id))?;
                continue;
            }
            if !info.is_deferred || self.mapper.message(&name, "@cancel_deferred_remove").is_ok() {
                // Also makes the node that may be missing, and wakes what a stop left asleep.
                self.mapper.resume(&name)?;
                return Ok(info);
            }
        }
        Err(DevicemapperError::Busy { name }.into())
    }

    /// Makes a device unusable again, at once or when nobody uses it any more.
    pub(super) fn deactivate(&self, name: &str) -> Result<(), StorageError> {
        if self.deferred.removal {
            let _state = self.state();
            self.mapper.remove_deferred(name)
        } else {
            self.mapper.remove(name)
        }
    }

    /// Takes the name from a device that somebody uses.
    pub(super) fn let_go_of(&self, name: &str, new: &str) -> Result<(), StorageError> {
        if self.mapper.remove_if_unused(name)? {
            return Ok(());
        }
        self.mapper.rename(name, new)?;
        self.mapper.remove_deferred(new)
    }
}

/// Of a device that was removed meanwhile.
fn unknown(role: &Role) -> StorageError {
    match role {
        Role::Layer(id) => StorageError::UnknownLayer { driver: NAME, id: id.clone() },
        _ => DevicemapperError::NonExisting { name: role.to_string() }.into(),
    }
}

/// A named point at which a crash test may stop the process.
pub(super) fn step(name: &str) {
    steps::reached(name);
    #[cfg(test)]
    super::tests::stop_at(name);
}
