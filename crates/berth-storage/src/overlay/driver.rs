//! The driver's calls.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_fs::atomic;
use berth_fs::copy::{self, CopyError, Xattrs};
use berth_fs::root::Root;
use berth_types::{LayerId, Owner};

use super::layout::{Form, LOWER_ID, MERGED, ROOT, UPPER, WORK, form, is_committed, set_committed};
use crate::error::io_at;
use crate::home::{Home, clear_mount_point, new_dir};
use crate::options::key_value;
use crate::overlayfs::{Overlayfs, Parts};
use crate::stack::Lower;
use crate::{
    Access, CreateOptions, LayerState, NativeDiff, Prepared, StorageDriver, StorageError, Teardown,
    Upkeep,
};

pub(crate) const NAME: &str = "overlay";
/// File systems that overlayfs does not work over, and one without enough hard links.
const REFUSED: [&str; 6] = ["aufs", "btrfs", "ecryptfs", "nfs", "overlayfs", "zfs"];

/// The driver over one home directory.
#[derive(Debug)]
pub struct Overlay {
    pub(super) home: Home,
    overlayfs: Overlayfs,
}

impl Overlay {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        if let Some(option) = options.first() {
            let (key, _) = key_value(option)?;
            return Err(StorageError::Option(format!("overlay: unknown option {key}")));
        }
        let overlayfs = Overlayfs::open(NAME, dir, &REFUSED)?;
        Ok(Self { home: Home::open(NAME, dir, root)?, overlayfs })
    }

    fn fill_new(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
    ) -> Result<(), StorageError> {
        let below = match parent {
            Some(parent) => {
                self.home.check(parent)?;
                Some((parent, form(parent, &self.home.layer(parent))?))
            }
            None => None,
        };
        let dir = self.home.start_creating(id)?;
        match below {
            None => self.home.new_root(&dir.join(ROOT))?,
            Some((parent, Form::Root)) if writable => self.stack_on(&dir, parent)?,
            Some((parent, Form::Root)) => self.link_tree(&dir, parent)?,
            Some((parent, Form::Upper(lower))) => self.copy_changes(&dir, parent, &lower)?,
        }
        self.home.publish(id)
    }

    /// An empty directory of changes to the full tree of `lower`.
    fn stack_on(&self, dir: &Path, lower: &LayerId) -> Result<(), StorageError> {
        let upper = dir.join(UPPER);
        let below = self.home.layer(lower).join(ROOT);
        let meta = fs::metadata(&below).map_err(io_at("look at", below))?;
        new_dir(&upper, meta.mode() & 0o7777)?;
        std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
            .map_err(io_at("set the owner of", upper))?;
        finish_changes(dir, lower)
    }

    /// The changes that `parent` has made to the full tree of `lower`, as this layer's own.
    fn copy_changes(
        &self,
        dir: &Path,
        parent: &LayerId,
        lower: &LayerId,
    ) -> Result<(), StorageError> {
        let upper = dir.join(UPPER);
        new_dir(&upper, 0o755)?;
        let (source, target) = (open(&self.home.layer(parent).join(UPPER))?, open(&upper)?);
        copy::tree(&source, &target, Xattrs::Upper).map_err(copy_error(upper))?;
        finish_changes(dir, lower)
    }

    /// The full tree of `parent`, by links.
    fn link_tree(&self, dir: &Path, parent: &LayerId) -> Result<(), StorageError> {
        let root = dir.join(ROOT);
        new_dir(&root, 0o755)?;
        let (source, target) = (open(&self.home.layer(parent).join(ROOT))?, open(&root)?);
        copy::links(&source, &target).map_err(copy_error(root))
    }
}

impl StorageDriver for Overlay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        self.overlayfs.status()
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        let paths = match form(id, &dir)? {
            Form::Root => vec![("RootDir", dir.join(ROOT))],
            Form::Upper(lower) => vec![
                ("LowerDir", self.home.layer(&lower).join(ROOT)),
                ("UpperDir", dir.join(UPPER)),
                ("WorkDir", dir.join(WORK)),
                ("MergedDir", dir.join(MERGED)),
            ],
        };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(Some(paths.into_iter().map(|(key, path)| (key.to_owned(), text(path))).collect()))
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
        if !options.storage_opt.is_empty() {
            let text = "--storage-opt is not supported for overlay";
            return Err(StorageError::Option(text.to_owned()));
        }
        let made = self.fill_new(id, parent, options.writable);
        if made.is_err() && !matches!(made, Err(StorageError::LayerExists { .. })) {
            self.home.stop_creating(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        let write = access == Access::Write;
        if write && is_committed(&dir)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        let lower = match form(id, &dir)? {
            Form::Root => {
                let root = dir.join(ROOT);
                return Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() });
            }
            Form::Upper(lower) => format!("{lower}/{ROOT}"),
        };
        let own = format!("{id}/{UPPER}");
        let (lowers, upper) = if write {
            (vec![lower], Some((own, format!("{id}/{WORK}"))))
        } else {
            (vec![own, lower], None)
        };
        let lowers: Vec<_> = lowers.into_iter().map(Lower::plain).collect();
        let root = dir.join(MERGED);
        let parts = Parts {
            lowers: &lowers,
            mapped: None,
            upper: upper.as_ref(),
            read_only: upper.is_none(),
            index: false,
            target: root.clone(),
        };
        let mounts = vec![self.overlayfs.plan(parts)?];
        let teardown = vec![Teardown::RemoveDir { path: root.clone() }];
        Ok(Prepared { root, mounts, teardown })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        clear_mount_point(&self.home.layer(id).join(MERGED))
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        set_committed(&self.home.layer(id))
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
            let committed = is_committed(&self.home.layer(&id))?;
            Ok((id, if committed { LayerState::Committed } else { LayerState::Active }))
        };
        self.home.list()?.into_iter().map(with_state).collect()
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.clean_up(keep)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.home.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.home.set_aside(id, lost_and_found)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl Upkeep for Overlay {
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.home.replace(id, new)
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}

/// What makes a directory of changes a layer.
fn finish_changes(dir: &Path, lower: &LayerId) -> Result<(), StorageError> {
    new_dir(&dir.join(WORK), 0o700)?;
    // Synced: a container's layer is recorded by then, and without this it is lost.
    let path = dir.join(LOWER_ID);
    atomic::write(&path, lower.as_str().as_bytes()).map_err(io_at("write", path))
}

fn open(path: &Path) -> Result<Root, StorageError> {
    Root::open(path).map_err(io_at("open", path))
}

fn copy_error(path: PathBuf) -> impl FnOnce(CopyError) -> StorageError {
    |error| StorageError::Io { action: "copy a layer to", path, source: io::Error::other(error) }
}
