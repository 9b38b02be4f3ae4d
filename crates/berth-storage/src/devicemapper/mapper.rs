//! The device-mapper's calls as the driver makes them: by name, logged, with its errors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use berth_sys::dm::{self, Control, Info, Line, Removal, Suspension, Version};

use super::error::DevicemapperError;
use crate::StorageError;
use crate::error::io_at;
use crate::programs::load_module;

/// How often, and at which distance, a device that is in use is tried again.
const TRIES: u32 = 200;
const NAP: Duration = Duration::from_millis(100);
/// From this `dm.libdm_log_level` on, each call is logged.
const DEBUG: i64 = 7;
/// From this one on, each failure is.
const ERRORS: i64 = 3;

/// The kernel's device-mapper.
#[derive(Debug)]
pub(super) struct Mapper {
    control: Control,
    level: i64,
}

impl Mapper {
    /// Opens it, and loads what the driver needs of the kernel's modules.
    pub(super) fn open() -> Result<Self, StorageError> {
        for module in ["dm_mod", "dm_thin_pool"] {
            load_module(module);
        }
        let control = Control::open().map_err(|error| {
            tracing::debug!(%error, "the kernel has no device-mapper");
            StorageError::NotSupported
        })?;
        Ok(Self { control, level: 0 })
    }

    /// Which calls are logged (`dm.libdm_log_level`).
    pub(super) fn set_level(&mut self, level: i64) {
        self.level = level;
    }

    pub(super) fn version(&self) -> Result<Version, StorageError> {
        self.control.version().map_err(|error| {
            tracing::debug!(%error, "the device-mapper does not say its version");
            StorageError::NotSupported
        })
    }

    /// Forgets events so far; those from here on make the descriptor readable.
    pub(super) fn arm(&self) -> io::Result<()> {
        self.control.arm()
    }

    pub(super) fn info(&self, name: &str) -> Result<Option<Info>, StorageError> {
        self.call("look at", name, |control| control.info(name))
    }

    pub(super) fn table(&self, name: &str) -> Result<Vec<Line>, StorageError> {
        self.call("read the table of", name, |control| control.table(name))
    }

    pub(super) fn status(&self, name: &str) -> Result<Vec<Line>, StorageError> {
        // Without writing out what the pool has in memory: a pool that cannot write answers too.
        self.call("read the status of", name, |control| control.status(name, Suspension::NoFlush))
    }

    /// Makes a device that works; leaves none when that fails.
    pub(super) fn make(&self, name: &str, table: &[Line]) -> Result<Info, StorageError> {
        self.call("create", name, |control| control.create(name))?;
        let made = self
            .call("load the table of", name, |control| control.load(name, table))
            .and_then(|()| self.call("resume", name, |control| control.resume(name)));
        if made.is_err()
            && let Err(error) = self.control.remove(name, Removal::Now)
        {
            tracing::warn!(%error, name, "a device that could not be made stays");
        }
        made
    }

    /// Puts another table into effect.
    pub(super) fn reload(&self, name: &str, table: &[Line]) -> Result<(), StorageError> {
        self.suspend(name)?;
        let loaded = self.call("load the table of", name, |control| control.load(name, table));
        // With the new table or with the old one: it must not stand still.
        self.resume(name)?;
        loaded
    }

    /// Lets a device stand still, its file system whole. Says whether there is one.
    pub(super) fn suspend(&self, name: &str) -> Result<bool, StorageError> {
        match self.control.suspend(name, Suspension::Flush) {
            Err(error) if dm::is_gone(&error) => Ok(false),
            done => {
                let done = self.logged("suspend", name, "", done);
                done.map(|()| true).map_err(io_at("suspend", dm::path(name)))
            }
        }
    }

    pub(super) fn resume(&self, name: &str) -> Result<(), StorageError> {
        self.call("resume", name, |control| control.resume(name)).map(drop)
    }

    pub(super) fn rename(&self, name: &str, new: &str) -> Result<(), StorageError> {
        self.call("rename", name, |control| control.rename(name, new))
    }

    /// Tells the pool or a device something; gives what the kernel says to it.
    pub(super) fn message(&self, name: &str, text: &str) -> io::Result<()> {
        self.logged("message", name, text, self.control.message(name, 0, text))
    }

    pub(super) fn names(&self) -> Result<Vec<String>, StorageError> {
        let all = self.call("list the devices in", "", Control::list)?;
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    pub(super) fn clear_nodes(&self, prefix: &str) -> Result<(), StorageError> {
        self.call("clear", prefix, |control| control.clear_nodes(prefix))
    }

    /// Removes a device as soon as nobody uses it. One that is not there is fine.
    pub(super) fn remove_deferred(&self, name: &str) -> Result<(), StorageError> {
        let removed = self.control.remove(name, Removal::Deferred);
        let removed = self.logged("remove", name, "deferred", removed);
        fine_if_gone(removed).map_err(io_at("remove", dm::path(name)))
    }

    /// Removes a device, if nobody uses it. One that is not there is fine. Says whether it is gone.
    pub(super) fn remove_if_unused(&self, name: &str) -> Result<bool, StorageError> {
        match fine_if_gone(self.control.remove(name, Removal::Now)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(io_at("remove", dm::path(name))(error)),
        }
    }

    /// Removes a device; whoever uses it has twenty seconds to end.
    pub(super) fn remove(&self, name: &str) -> Result<(), StorageError> {
        for _ in 0..TRIES {
            if self.remove_if_unused(name)? {
                return Ok(());
            }
            std::thread::sleep(NAP);
        }
        Err(DevicemapperError::Busy { name: name.to_owned() }.into())
    }

    fn call<T>(
        &self,
        action: &'static str,
        name: &str,
        work: impl FnOnce(&Control) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let done = self.logged(action, name, "", work(&self.control));
        done.map_err(io_at(action, dm::path(name)))
    }

    fn logged<T>(
        &self,
        action: &str,
        name: &str,
        what: &str,
        done: io::Result<T>,
    ) -> io::Result<T> {
        match &done {
            Ok(_) if self.level >= DEBUG => tracing::info!(action, name, what, "devmapper"),
            Err(error) if self.level >= ERRORS => {
                tracing::error!(action, name, what, %error, "devmapper");
            }
            Ok(_) => tracing::trace!(action, name, what, "devmapper"),
            Err(error) => tracing::debug!(action, name, what, %error, "devmapper"),
        }
        done
    }
}

impl AsFd for Mapper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

fn fine_if_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if dm::is_gone(&error) => Ok(()),
        other => other,
    }
}
