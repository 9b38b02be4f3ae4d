//! A driver shaped like those on block devices, for tests: `devicemapper` and `zfs` must fit into
//! the trait as this one does.
//!
//! Layers are filled each after its parent, cannot be reached before they are activated, are
//! mounted to be read and to be written, and must be deactivated afterwards.
//!
//! ```text
//! store/<id>/data/       a layer's whole content: what a device would hold
//! store/<id>/committed   empty; the layer is frozen
//! active/<id>            link to the data: the device, while it is activated
//! mnt/<id>/              where it is mounted
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::copy::{self, Xattrs};
use berth_fs::root::Root;
use berth_types::{LayerId, Owner};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::io_at;
use crate::home::{Home, PRIVATE, clear_mount_point, make_dir, new_dir};
use crate::{
    Access, CreateOptions, LayerState, MountPlan, NativeDiff, Prepared, StorageDriver,
    StorageError, Teardown, Upkeep,
};

/// The name it gives itself.
pub const NAME: &str = "block-twin";
const DATA: &str = "data";
const COMMITTED: &str = "committed";

/// The driver over one home directory.
#[derive(Debug)]
pub struct BlockTwin {
    home: Home,
    dir: PathBuf,
}

impl BlockTwin {
    /// Opens the driver whose home is `dir`, creating it when it is missing.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        make_dir(dir, PRIVATE)?;
        for name in ["active", "mnt"] {
            make_dir(&dir.join(name), 0o700)?;
        }
        Ok(Self { home: Home::open(NAME, &dir.join("store"), Owner::ROOT)?, dir: dir.to_owned() })
    }

    fn data(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id).join(DATA)
    }

    fn device(&self, id: &LayerId) -> PathBuf {
        self.dir.join("active").join(id.as_str())
    }

    fn mount_point(&self, id: &LayerId) -> PathBuf {
        self.dir.join("mnt").join(id.as_str())
    }

    fn is_committed(&self, id: &LayerId) -> Result<bool, StorageError> {
        let marker = self.home.layer(id).join(COMMITTED);
        marker.try_exists().map_err(io_at("look at", marker))
    }

    fn activate(&self, id: &LayerId) -> Result<(), StorageError> {
        let device = self.device(id);
        // By a rename, so that somebody who deactivates meanwhile finds the old one or the new.
        let new = device.with_extension(LayerId::random().as_str());
        std::os::unix::fs::symlink(self.data(id), &new).map_err(io_at("create", &new))?;
        renameat_with(CWD, &new, CWD, &device, RenameFlags::empty())
            .map_err(io_at("rename to", device))
    }

    fn fill_new(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError> {
        if let Some(parent) = parent {
            self.home.check(parent)?;
        }
        let data = self.home.start_creating(id)?.join(DATA);
        new_dir(&data, 0o755)?;
        if let Some(parent) = parent {
            let open = |path: &Path| Root::open(path).map_err(io_at("open", path));
            let (source, target) = (open(&self.data(parent))?, open(&data)?);
            copy::tree(&source, &target, Xattrs::All).map_err(|error| StorageError::Io {
                action: "copy a layer to",
                path: data,
                source: io::Error::other(error),
            })?;
        }
        self.home.publish(id)
    }
}

impl StorageDriver for BlockTwin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.home.check(id)?;
        Ok(None)
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        if !options.mount_label.is_empty() {
            return Err(StorageError::MountLabel);
        }
        if let Some(key) = options.storage_opt.keys().next() {
            return Err(StorageError::Option(format!("Unknown option {key}")));
        }
        let made = self.fill_new(id, parent);
        if made.is_err() && !matches!(made, Err(StorageError::LayerExists { .. })) {
            self.home.stop_creating(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        if access == Access::Write && self.is_committed(id)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        self.activate(id)?;
        let root = self.mount_point(id);
        let mode = if access == Access::Write { "rw" } else { "ro" };
        let mount = MountPlan {
            fs_type: "bind".to_owned(),
            source: self.device(id),
            target: root.clone(),
            work_dir: None,
            options: vec![mode.to_owned()],
        };
        let teardown = vec![
            Teardown::RemoveDir { path: root.clone() },
            Teardown::RemoveFile { path: self.device(id) },
        ];
        Ok(Prepared { root, mounts: vec![mount], teardown })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        clear_mount_point(&self.mount_point(id))?;
        let device = self.device(id);
        match fs::remove_file(&device) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", device)(error))
            }
            _ => Ok(()),
        }
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        let marker = self.home.layer(id).join(COMMITTED);
        let made = fs::OpenOptions::new().create(true).append(true).open(&marker);
        made.map(drop).map_err(io_at("create", marker))
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.release(id)?;
        self.home.detach(id).map(drop)
    }

    fn reap(&self) -> Result<(), StorageError> {
        self.home.reap()
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let with_state = |id: LayerId| {
            let committed = self.is_committed(&id)?;
            Ok((id, if committed { LayerState::Committed } else { LayerState::Active }))
        };
        self.home.list()?.into_iter().map(with_state).collect()
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.home.stop_creating(&id);
        }
        for id in self.home.list()?.iter().filter(|id| !keep(id)) {
            self.release(id)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.home.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.release(id)?;
        self.home.set_aside(id, lost_and_found)
    }

    fn mounts_to_fill(&self) -> bool {
        true
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl Upkeep for BlockTwin {
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.home.replace(id, new)
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}
