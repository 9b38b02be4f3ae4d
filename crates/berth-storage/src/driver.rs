//! The driver trait: what a backing store must do to hold layers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use berth_fs::marks::Marks;
use berth_types::LayerId;
use serde::{Deserialize, Serialize};

use crate::{StorageError, ThinPool};

/// Keeps layers on one backing store.
///
/// Calls block. They may come from several threads, at most one at a time for
/// the same id. A call that fails leaves the driver as if it had not been
/// made, or leaves debris that [`list`](Self::list) does not show and the next
/// [`recover`](Self::recover) removes.
///
/// A layer is *active* from [`create`](Self::create) until [`commit`](Self::commit)
/// freezes it; only then may layers be created on top of it, unless the driver
/// [applies natively](Self::native). An image layer of a driver that does not apply natively
/// outlives its parent's removal. Whoever fills an image layer replaces what came from its parent
/// and never changes a file in place: the two may share it.
pub trait StorageDriver: Debug + Send + Sync {
    /// The name shown by `docker info`, for example `overlay2`.
    fn name(&self) -> &'static str;
    /// The lines below the driver's name in `docker info`, in order.
    fn status(&self) -> Vec<(String, String)>;
    /// The `GraphDriver.Data` of `docker inspect`; `None` prints `null`.
    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError>;
    /// Creates an active layer whose content starts as that of `parent`.
    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError>;
    /// Makes the layer usable (activates devices) and says how to mount it and how to undo all of
    /// it, activation included. Asked again, it says the same of the same layer.
    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError>;
    /// Undoes `prepare`; idempotent, and safe after a crash.
    fn release(&self, id: &LayerId) -> Result<(), StorageError>;
    /// Freezes an active layer.
    ///
    /// Does not sync: the caller syncs once for all the layers that it commits
    /// together, through [`sync`](Self::sync).
    fn commit(&self, id: &LayerId) -> Result<(), StorageError>;
    /// Takes a layer that has no children off the store. Unknown ids are fine.
    ///
    /// Quick whatever the layer's size: it is renamed to the driver's own trash name, and
    /// [`reap`](Self::reap) deletes it.
    fn remove(&self, id: &LayerId) -> Result<(), StorageError>;
    /// Makes the removals so far survive a power cut, then deletes what they left. May take
    /// long and runs beside any other call; once it returns, no removed layer can come back.
    fn reap(&self) -> Result<(), StorageError>;
    /// Every layer on the store, for reconciliation after a crash.
    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError>;
    /// Removes what interrupted calls left behind, unmounts what dead holders left
    /// mounted. Called once, at start. `keep` names the layers whose mounts are in use.
    /// What was removed but not reaped is left to [`reap`](Self::reap), which may take long.
    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError>;
    /// Makes everything done so far survive a power cut.
    fn sync(&self) -> Result<(), StorageError>;
    /// Moves a layer that no record knows out of the store, to where an
    /// administrator finds it; says where. Nothing is deleted.
    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError>;
    /// Lets go of what nobody uses: devices, a pool. Called once, in the end; what containers use that
    /// outlive the daemon stays, and the next start finds it.
    fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
    /// Image layers were made, and more may follow soon: a driver for which the beginning of a layer
    /// without a parent takes time may do that in advance, in the background.
    fn keep_spare(&self) {}
    /// Whether a new layer has to be mounted before a file can be put into it.
    fn mounts_to_fill(&self) -> bool {
        false
    }
    /// The short way for drivers that keep each layer's own changes in a directory.
    fn native(&self) -> Option<&dyn NativeDiff>;
    /// What drivers over a thin pool know of it.
    fn thin_pool(&self) -> Option<&dyn ThinPool> {
        None
    }
    /// What mending and copying take, of drivers that can be mended and copied layer by layer.
    fn upkeep(&self) -> Option<&dyn Upkeep> {
        None
    }
}

/// Drivers whose layers can be put in each other's place.
pub trait Upkeep: Send + Sync {
    /// Puts the content of `new`, a committed layer, in the place of `id`, at one stroke and durably,
    /// so that whatever stands on `id` stands on it. What was at `id` is at `new` from then on;
    /// nothing is, when nothing was.
    ///
    /// A driver that [applies natively](StorageDriver::native) may have to be told again what stands
    /// on `id` when nothing was there.
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError>;
    /// The directory with everything that the driver keeps of the layer, whether it is there or not.
    fn place(&self, id: &LayerId) -> PathBuf;
}

/// Drivers that keep a layer's changes apart from its parent's content (the overlay family, aufs).
///
/// They can fill a layer before its parent is filled, so the layers of one archive
/// unpack at the same time.
pub trait NativeDiff: Send + Sync {
    /// The directory that holds the layer's own changes. It exists once the layer is created.
    fn diff_dir(&self, id: &LayerId) -> PathBuf;
    /// How deletions are marked in that directory.
    fn marks(&self) -> Marks;
    /// The directories of changes of the layers below, nearest first.
    fn lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError>;
    /// The same as a mount of the layer shows them, with the owners that files have there.
    fn shown_lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        self.lower_dirs(id)
    }
    /// Whether the directories of changes of image layers hold ids of containers, and mounts translate
    /// them. Layers that containers write hold ids of the host always.
    fn maps_ids(&self) -> bool {
        false
    }
    /// Makes the layer stand on `parent`, whatever it stood on, and mends what a power cut tore.
    /// Its own changes stay as they are. Does nothing when all is in order.
    fn stand_on(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError>;
    /// Whether the directory of changes may lack some of what was changed through a mount, for any
    /// layer. Such a layer is mounted by one caller at a time, to be read too.
    fn may_lack_changes(&self) -> bool {
        false
    }
    /// Whether that of this layer may: what was changed is found by comparing trees then.
    fn lacks_changes(&self, id: &LayerId) -> Result<bool, StorageError> {
        let _ = id;
        Ok(false)
    }
}

/// What may be asked of a new layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// A container's layer (or its init layer), not part of an image.
    pub writable: bool,
    /// `--storage-opt` as given.
    pub storage_opt: BTreeMap<String, String>,
    /// The SELinux label of the mount, empty for none.
    pub mount_label: String,
}

/// What the caller will do with a prepared layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read it. An active layer that is mounted for writing must be read through that
    /// mount instead.
    Read,
    /// Write into it; the layer must be active.
    Write,
}

/// Whether a layer is still being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Created, not committed: a container's layer, or one being filled.
    Active,
    /// Frozen.
    Committed,
}

/// How to reach a layer's content, as plain data that a process without the driver can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Where the content is once `mounts` are done, for example `…/merged`: the last one's target.
    pub root: PathBuf,
    /// What to mount, in order; empty when `root` can be used as it is.
    pub mounts: Vec<MountPlan>,
    /// What to undo afterwards, in order, besides unmounting `mounts` in reverse.
    pub teardown: Vec<Teardown>,
}

impl Prepared {
    /// The same content at `target`, for somebody who must not meet those who mount it where it
    /// belongs.
    #[must_use]
    pub fn moved_to(mut self, target: &Path) -> Self {
        if let Some(last) = self.mounts.last_mut() {
            let usual = std::mem::replace(&mut last.target, target.to_owned());
            self.teardown.retain(|step| *step != Teardown::RemoveDir { path: usual.clone() });
            self.teardown.push(Teardown::RemoveDir { path: target.to_owned() });
            target.clone_into(&mut self.root);
        }
        self
    }

    /// The same content at `target`, for one of several who read it: activation is not undone.
    #[must_use]
    pub fn aside(self, target: &Path) -> Self {
        let mut moved = self.moved_to(target);
        moved.teardown.retain(|step| *step == Teardown::RemoveDir { path: target.to_owned() });
        moved
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// File system type, for example `overlay`; `bind` for a bind mount; `fuse.PROGRAM` for one
    /// that this program makes and serves (`PROGRAM -o OPTIONS TARGET`). Unmounting ends it.
    pub fs_type: String,
    /// The device, or the directory to bind.
    pub source: PathBuf,
    /// Where; the caller creates the directory if it is missing (mode 0700).
    pub target: PathBuf,
    /// Directory that relative paths in `options` start from, when there are any.
    pub work_dir: Option<PathBuf>,
    /// Options as `mount -o` takes them, flags (`ro`, `nodev`) included. Each `append:BRANCH=MODE` of
    /// aufs is for a remount once it is mounted, in order.
    pub options: Vec<String>,
}

/// One step of undoing a preparation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Teardown {
    /// Remove an empty mount point.
    RemoveDir {
        /// The directory.
        path: PathBuf,
    },
    /// Remove a file or link that stands for something that `prepare` activated.
    RemoveFile {
        /// The file.
        path: PathBuf,
    },
}
