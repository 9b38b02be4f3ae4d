//! The driver's calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use berth_sys::dm::{self, Version};
use berth_types::LayerId;

use super::filesystem::{self, ROOT};
use super::layout;
use super::lvm;
use super::mapper::Mapper;
use super::options::{Fs, Options};
use super::pool::Pool;
use super::records::{Device, Records, Role};
use super::set::{Set, State, step};
use super::watch::Watch;
use crate::error::io_at;
use crate::home::{clear_mount_point, free_mount_point};
use crate::options::parse_size;
use crate::{
    Access, CreateOptions, LayerState, MountPlan, NativeDiff, Prepared, StorageDriver,
    StorageError, ThinPool,
};

pub(crate) const NAME: &str = "devicemapper";

/// The driver over one home directory.
#[derive(Debug)]
pub struct Devicemapper {
    pub(super) set: Arc<Set>,
}

/// The homes that this process has open: a pool has one master.
static OPEN: Mutex<Vec<(String, Weak<Set>)>> = Mutex::new(Vec::new());

impl Devicemapper {
    /// Opens the driver whose home is `dir`, creating it and its pool when they are missing. A home
    /// that is open already is opened once more, with the options that it has.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        let mut mapper = Mapper::open()?;
        let version = mapper.version()?;
        let options = Options::parse(options)?;
        mapper.set_level(options.log_level);
        let deferred = options.deferred(version >= Version::DEFERRED_REMOVAL)?;
        check_udev(dm::can_sync(), &options)?;
        layout::make_dirs(dir)?;
        let prefix = layout::prefix(dir)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, set)| set.strong_count() > 0);
        if let Some(set) =
            open.iter().find(|(name, _)| *name == prefix).and_then(|(_, set)| set.upgrade())
        {
            return Ok(Self::over(set));
        }
        let records = Records::open(dir)?;
        let pool = match &options.thin_pool {
            Some(name) => foreign(&mapper, name)?,
            None if !options.lvm.device.is_empty() => {
                foreign(&mapper, lvm::ensure(dir, &options.lvm)?)?
            }
            None => Pool::own(&mapper, dir, &prefix, &options, is_used(&records)?)?,
        };
        let mapper = Arc::new(mapper);
        let (pool_name, levels, below) = (pool.name.clone(), options.levels(), pool.below(dir));
        let watch = Watch::new(Arc::clone(&mapper), pool_name, levels, below)?;
        let set = Arc::new(Set {
            mapper,
            watch: Arc::new(watch),
            options,
            deferred,
            home: dir.to_owned(),
            prefix: prefix.clone(),
            pool,
            records,
            state: Mutex::new(State::default()),
            spares: Arc::default(),
            reaping: Mutex::new(()),
            resizing: Mutex::new(()),
        });
        set.load()?;
        Watch::start(&set.watch);
        open.push((prefix, Arc::downgrade(&set)));
        Ok(Self::over(set))
    }

    fn over(set: Arc<Set>) -> Self {
        set.spares.used_once_more();
        Self { set }
    }

    fn layer(&self, id: &LayerId) -> Result<Device, StorageError> {
        let device = self.set.device(&Role::Layer(id.clone()))?;
        device.ok_or_else(|| StorageError::UnknownLayer { driver: NAME, id: id.clone() })
    }

    fn has(&self, id: &LayerId) -> Result<bool, StorageError> {
        self.set.records.has(&Role::Layer(id.clone()))
    }

    fn is_committed(&self, id: &LayerId) -> Result<bool, StorageError> {
        layout::is_committed(&self.set.home, id)
    }
}

impl Drop for Devicemapper {
    fn drop(&mut self) {
        // What makes spares has the set in its hands meanwhile.
        self.set.spares.used_once_less();
    }
}

fn foreign(mapper: &Mapper, name: &str) -> Result<Pool, StorageError> {
    lvm::activate(mapper, name)?;
    Pool::foreign(mapper, name)
}

/// Whether the pool has held anything.
fn is_used(records: &Records) -> Result<bool, StorageError> {
    let base = records.device(&Role::Base)?.is_some_and(|base| base.initialized);
    Ok(base || records.roles()?.iter().any(|role| matches!(role, Role::Layer(_))))
}

/// Docker's refusal of machines on which it cannot be known when a device's node is there.
pub(super) fn check_udev(can_sync: bool, options: &Options) -> Result<(), StorageError> {
    if can_sync {
        return Ok(());
    }
    tracing::error!(
        "Udev sync is not supported. This will lead to data loss and unexpected behavior. Make \
         System V semaphores available to udev and to this program, or select a different storage \
         driver."
    );
    if options.override_udev { Ok(()) } else { Err(StorageError::NotSupported) }
}

/// What `--storage-opt` asks of a new layer.
fn wanted_size(options: &CreateOptions) -> Result<Option<u64>, StorageError> {
    if !options.mount_label.is_empty() {
        return Err(StorageError::MountLabel);
    }
    let mut wanted = None;
    for (key, value) in &options.storage_opt {
        if !key.eq_ignore_ascii_case("size") {
            return Err(StorageError::Option(format!("Unknown option {}", key.to_lowercase())));
        }
        wanted = Some(u64::try_from(parse_size(value)?).unwrap_or(0));
    }
    Ok(wanted)
}

impl StorageDriver for Devicemapper {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        self.set.describe()
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        let device = self.layer(id)?;
        let name = self.set.name(&Role::Layer(id.clone()), &device);
        let pairs = [
            ("DeviceId", device.device_id.to_string()),
            ("DeviceName", name),
            ("DeviceSize", device.size.to_string()),
        ];
        Ok(Some(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        let size = wanted_size(options)?;
        if self.has(id)? {
            return Err(StorageError::LayerExists { driver: NAME, id: id.clone() });
        }
        if let Some(parent) = parent {
            self.layer(parent)?;
        }
        // Of an earlier life of the id that a power cut half took.
        layout::clear_committed(&self.set.home, id)?;
        self.set.make_layer(id, parent, size, !options.writable)?;
        layout::make_mount_point(&self.set.home, id)
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        let device = self.layer(id)?;
        if access == Access::Write && self.is_committed(id)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        let role = Role::Layer(id.clone());
        self.set.activate(&role, &device)?;
        let source = dm::path(&self.set.name(&role, &device));
        let fs = filesystem::probe(&source)?.fs;
        let mut options = filesystem::mount_options(fs, &self.set.options);
        options.push(format!("{}{ROOT}", berth_sys::mount::SUBDIR));
        if let (Fs::Xfs, Some(retries)) = (fs, self.set.options.xfs_retries()) {
            options.push(format!("{}{retries}", berth_sys::mount::XFS_RETRIES));
        }
        options.push(if access == Access::Write { "rw" } else { "ro" }.to_owned());
        let root = layout::mount_point(&self.set.home, id);
        let mount = MountPlan {
            fs_type: fs.name().to_owned(),
            source,
            target: root.clone(),
            work_dir: None,
            options,
        };
        // The mount point stays, empty.
        Ok(Prepared { root, mounts: vec![mount], teardown: Vec::new() })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        self.set.spares.let_go(id);
        free_mount_point(&layout::mount_point(&self.set.home, id))?;
        let role = Role::Layer(id.clone());
        match self.set.device(&role)? {
            Some(device) => self.set.deactivate(&self.set.name(&role, &device)),
            None => Ok(()),
        }
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.layer(id)?;
        // Whoever filled it has unmounted it.
        self.set.spares.let_go(id);
        layout::set_committed(&self.set.home, id)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.set.spares.let_go(id);
        clear_mount_point(&layout::mount_point(&self.set.home, id))?;
        let role = Role::Layer(id.clone());
        if let Some(device) = self.set.device(&role)? {
            self.set.take_off(id, &role, &device)?;
        }
        step("dm.remove.renamed");
        layout::clear_committed(&self.set.home, id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        let left = self.set.reap()?;
        if left {
            Set::reap_later(&self.set);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let mut found = Vec::new();
        for role in self.set.records.roles()? {
            if let Role::Layer(id) = role {
                let committed = self.is_committed(&id)?;
                let state = if committed { LayerState::Committed } else { LayerState::Active };
                found.push((id, state));
            }
        }
        Ok(found)
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.set.clean_up(keep)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.set.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.layer(id)?;
        self.release(id)?;
        clear_mount_point(&layout::mount_point(&self.set.home, id))?;
        let moved = self.set.move_aside(id, lost_and_found)?;
        layout::clear_committed(&self.set.home, id)?;
        Ok(moved)
    }

    fn close(&self) -> Result<(), StorageError> {
        self.set.close()
    }

    fn keep_spare(&self) {
        Set::keep_spare(&self.set);
    }

    fn mounts_to_fill(&self) -> bool {
        true
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }

    fn thin_pool(&self) -> Option<&dyn ThinPool> {
        Some(self)
    }
}

impl Set {
    /// Reads what there is, undoes what was interrupted, and makes sure of the base device.
    fn load(&self) -> Result<(), StorageError> {
        self.state().transaction = self.roll_back()?;
        let used = self.records.devices()?;
        let used = used.into_iter().map(|(_, device)| device.device_id).collect();
        let last = self.records.set()?.next_device_id;
        {
            let mut state = self.state();
            state.used = used;
            state.last = last;
        }
        self.ensure_base()?;
        if self.pool.parts.as_ref().is_some_and(|parts| parts.data.file_path().is_some()) {
            tracing::warn!(
                "Usage of loopback devices is strongly discouraged for production use. Please use \
                 `--storage-opt dm.thinpooldev` or use `man dockerd` to refer to dm.thinpooldev \
                 section."
            );
        }
        Ok(())
    }

    /// Makes everything that was written to layers survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.sync_mounted()?;
        self.sync_pool()?;
        berth_sys::fsinfo::sync_fs_of(&self.home).map_err(io_at("sync", &self.home))
    }

    /// The pool's data, then its own metadata, which is on the disk when the message is answered.
    pub(super) fn sync_pool(&self) -> Result<(), StorageError> {
        let path = dm::path(&self.pool.name);
        let flushed = std::fs::File::open(&path).and_then(|file| file.sync_all());
        flushed.map_err(io_at("sync", &path))?;
        let now = self.state().transaction;
        let message = format!("set_transaction_id {now} {now}");
        self.mapper.message(&self.pool.name, &message).map_err(io_at("sync", path))
    }

    /// A frozen layer's file system was unmounted, which wrote it out, unless somebody who made a
    /// mount namespace meanwhile holds a copy of the mount.
    fn sync_mounted(&self) -> Result<(), StorageError> {
        let names = self.mapper.names()?;
        let (_, frozen) = layout::named(&self.home)?;
        for id in frozen {
            let name = format!("{}-{id}", self.prefix);
            if names.contains(&name)
                && self.mapper.info(&name)?.is_some_and(|info| info.open_count > 0)
            {
                rustix::fs::sync();
                break;
            }
        }
        Ok(())
    }
}
