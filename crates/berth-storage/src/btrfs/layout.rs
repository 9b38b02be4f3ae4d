//! Names and small files below the home directory, and the limits that they stand for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_fs::atomic;
use berth_sys::btrfs;
use berth_types::LayerId;
use rustix::io::Errno;

use crate::StorageError;
use crate::error::io_at;
use crate::home::make_dir;

pub(super) const SUBVOLUMES: &str = "subvolumes";
pub(super) const QUOTAS: &str = "quotas";

/// The sizes that containers' layers were given.
#[derive(Debug)]
pub(super) struct Quotas {
    dir: PathBuf,
    /// The smallest size that is put into effect.
    min: u64,
    /// Whether this process switched quota groups on.
    on: AtomicBool,
}

impl Quotas {
    pub(super) fn open(home: &Path, min: u64) -> Result<Self, StorageError> {
        let dir = home.join(QUOTAS);
        make_dir(&dir, 0o700)?;
        Ok(Self { dir, min, on: AtomicBool::new(false) })
    }

    /// Switches quota groups on for the file system.
    pub(super) fn enable(&self) -> Result<(), StorageError> {
        let enabled = File::open(&self.dir).and_then(btrfs::enable_quota);
        enabled.map_err(io_at("enable quotas for", &self.dir))?;
        self.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Notes a layer's size, so that it survives a power cut.
    pub(super) fn set(&self, id: &LayerId, size: u64) -> Result<(), StorageError> {
        let path = self.dir.join(id.as_str());
        atomic::write(&path, size.to_string().as_bytes()).map_err(io_at("write", path))
    }

    /// The size that was asked for.
    pub(super) fn get(&self, id: &LayerId) -> Result<Option<u64>, StorageError> {
        let path = self.dir.join(id.as_str());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("read", path))?,
        };
        match text.trim().parse() {
            Ok(size) => Ok(Some(size)),
            Err(_) => Err(StorageError::Damaged { id: id.clone(), what: "the quota" }),
        }
    }

    /// Puts the layer's size into effect on its subvolume.
    pub(super) fn apply(&self, id: &LayerId, subvolume: &Path) -> Result<(), StorageError> {
        let Some(size) = self.get(id)?.filter(|&size| size > 0 && size >= self.min) else {
            return Ok(());
        };
        let failed = || io_at("limit the size of", subvolume);
        let top = File::open(subvolume).map_err(failed())?;
        match btrfs::limit_subvolume(&top, size) {
            Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
                self.enable()?;
                btrfs::limit_subvolume(&top, size).map_err(failed())
            }
            other => {
                self.on.store(true, Ordering::Relaxed);
                other.map_err(failed())
            }
        }
    }

    pub(super) fn clear(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.dir.join(id.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The layers that have a size.
    pub(super) fn list(&self) -> Result<Vec<LayerId>, StorageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_at("list", &self.dir))? {
            let name = entry.map_err(io_at("list", &self.dir))?.file_name();
            ids.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
        }
        Ok(ids)
    }

    /// Has the kernel count again after subvolumes were removed: it stops counting when a large
    /// one goes.
    pub(super) fn recount(&self) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = File::open(&self.dir).and_then(btrfs::rescan_quota) {
            // Counting goes on already.
            tracing::debug!(%error, "quotas are not counted anew");
        }
    }
}

/// Whether the layer at `subvolume` is frozen.
pub(super) fn is_committed(subvolume: &Path) -> Result<bool, StorageError> {
    let read_only = File::open(subvolume).and_then(btrfs::is_read_only);
    read_only.map_err(io_at("look at", subvolume))
}

/// Freezes the layer at `subvolume`, or makes it one that can be moved again.
pub(super) fn set_committed(subvolume: &Path, committed: bool) -> Result<(), StorageError> {
    let set = File::open(subvolume).and_then(|top| btrfs::set_read_only(top, committed));
    set.map_err(io_at("set the flags of", subvolume))
}
