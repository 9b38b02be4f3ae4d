//! The driver's calls.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::atomic::Durability;
use berth_fs::marks::Marks;
use berth_sys::fsinfo;
use berth_sys::mount::{AUFS, Unmount, before_unmount, unmount};
use berth_types::{LayerId, Owner};
use rustix::io::Errno;

use super::layout::{Chains, DIFF, MNT};
use super::plan::Mounts;
use super::probe::{self, Abilities};
use crate::error::io_at;
use crate::home::{Home, make_passage, new_dir};
use crate::markers::Markers;
use crate::options::key_value;
use crate::stack::take_owner;
use crate::{
    Access, CreateOptions, LayerState, NativeDiff, Prepared, StorageDriver, StorageError, Upkeep,
};

pub(crate) const NAME: &str = "aufs";
/// How many layers one may stand on: of the 127 branches that aufs is built for, one is the layer's
/// own.
const MOST: usize = 126;

/// The driver over one home directory.
#[derive(Debug)]
pub struct Aufs {
    root: PathBuf,
    pub(super) home: Home,
    pub(super) chains: Chains,
    pub(super) markers: Markers,
    mounts: Mounts,
    backing: &'static str,
    dirperm1: bool,
}

impl Aufs {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        if let Some(option) = options.first() {
            let (key, _) = key_value(option)?;
            return Err(StorageError::Option(format!("aufs: unknown option {key}")));
        }
        Self::assemble(dir, root, probe::run(dir)?)
    }

    /// The driver, whatever the kernel can do.
    pub(super) fn assemble(
        dir: &Path,
        root: Owner,
        abilities: Abilities,
    ) -> Result<Self, StorageError> {
        let Abilities { backing, dirperm1, .. } = abilities;
        make_passage(dir, root)?;
        let home = Home::open(NAME, &dir.join(DIFF), root)?;
        make_passage(&dir.join(MNT), root)?;
        Ok(Self {
            root: dir.to_owned(),
            home,
            chains: Chains::open(dir, root)?,
            markers: Markers::open(dir)?,
            mounts: Mounts::new(dir, abilities),
            backing,
            dirperm1,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a layer is mounted.
    pub(super) fn mount_point(&self, id: &LayerId) -> PathBuf {
        self.root.join(MNT).join(id.as_str())
    }

    /// What a layer on `parent` stands on.
    fn chain_on(&self, parent: Option<&LayerId>) -> Result<Vec<LayerId>, StorageError> {
        let Some(parent) = parent else { return Ok(Vec::new()) };
        self.home.check(parent)?;
        let mut chain = vec![parent.clone()];
        chain.extend(self.chains.read(parent)?);
        if chain.len() > MOST {
            return Err(StorageError::MaxDepth);
        }
        Ok(chain)
    }

    fn fill_new(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
    ) -> Result<(), StorageError> {
        let chain = self.chain_on(parent)?;
        let dir = self.home.start_root(id)?;
        if let Some(parent) = parent.filter(|_| writable) {
            take_owner(&dir, &self.home.layer(parent))?;
        }
        // Left by a removal that was interrupted.
        self.markers.clear(id)?;
        // Synced: a container's layer is recorded by then, and an empty file would say that it stands
        // on nothing.
        let durability = if writable { Durability::Synced } else { Durability::Unsynced };
        self.chains.write(id, &chain, durability)?;
        self.ensure_mount_point(id)?;
        self.home.publish(id)
    }

    fn ensure_mount_point(&self, id: &LayerId) -> Result<(), StorageError> {
        match new_dir(&self.mount_point(id), 0o755) {
            Err(StorageError::Io { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Removes what is kept of a layer beside its changes.
    pub(super) fn drop_names(&self, id: &LayerId) -> Result<(), StorageError> {
        self.chains.remove(id)?;
        self.markers.clear(id)?;
        let path = self.mount_point(id);
        match fs::remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // Somebody wrote here when nothing was mounted.
                tracing::warn!(path = %path.display(), "a mount point is not empty and stays");
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn undo_creation(&self, id: &LayerId) {
        self.home.stop_creating(id);
        if let Err(error) = self.drop_names(id) {
            tracing::warn!(%error, "files of an unfinished layer stay");
        }
    }
}

impl StorageDriver for Aufs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        let dirs = self.chains.list().map_or(0, |all| all.len());
        [
            ("Root Dir", self.root.display().to_string()),
            ("Backing Filesystem", self.backing.to_owned()),
            ("Dirs", dirs.to_string()),
            ("Dirperm1 Supported", self.dirperm1.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
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
        if !options.storage_opt.is_empty() {
            let text = "--storage-opt is not supported for aufs";
            return Err(StorageError::Option(text.to_owned()));
        }
        self.home.check_new(id)?;
        let made = self.fill_new(id, parent, options.writable);
        if made.is_err() {
            self.undo_creation(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        let write = access == Access::Write;
        if write && self.markers.has(id)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        let lowers = self.chains.read(id)?;
        if lowers.is_empty() {
            let root = self.home.layer(id);
            return Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() });
        }
        let mount = self.mounts.plan(id, &lowers, write, self.mount_point(id));
        // The mount point stays, as Docker's.
        Ok(Prepared { root: mount.target.clone(), mounts: vec![mount], teardown: Vec::new() })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.mount_point(id);
        loop {
            if fsinfo::fs_name(&path).is_ok_and(|name| name == AUFS) {
                before_unmount(AUFS, &path);
            }
            match unmount(&path, Unmount::Lazy) {
                // There may be several on top of each other.
                Ok(()) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    _ => return Err(io_at("unmount", path)(error)),
                },
            }
        }
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        self.markers.set(id)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.release(id)?;
        self.home.detach(id)?;
        self.drop_names(id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        self.home.reap()
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let with_state = |id: LayerId| {
            let committed = self.markers.has(&id)?;
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
        self.release(id)?;
        let moved = self.home.set_aside(id, lost_and_found)?;
        self.drop_names(id)?;
        Ok(moved)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        Some(self)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl NativeDiff for Aufs {
    fn diff_dir(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }

    fn marks(&self) -> Marks {
        Marks::Aufs
    }

    fn lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        self.home.check(id)?;
        Ok(self.chains.read(id)?.iter().map(|lower| self.home.layer(lower)).collect())
    }

    fn stand_on(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError> {
        self.home.check(id)?;
        let chain = self.chain_on(parent)?;
        // What cannot be read is written anew.
        if !matches!(self.chains.find(id), Ok(Some(found)) if found == chain) {
            self.chains.write(id, &chain, Durability::Synced)?;
        }
        self.ensure_mount_point(id)
    }
}

impl Upkeep for Aufs {
    /// What a layer stands on goes with its content; it is the same as a rule, and then nothing but the
    /// directories changes.
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.home.check(new)?;
        let (old, own) = (self.chains.find(id).ok().flatten(), self.chains.read(new)?);
        let was_there = self.home.has(id)?;
        // First: a frozen layer must not be written to for a moment.
        self.markers.set(id)?;
        if !was_there || old.is_none() {
            self.chains.write(id, &own, Durability::Synced)?;
        }
        self.home.replace(id, new)?;
        self.ensure_mount_point(id)?;
        if !was_there {
            return self.drop_names(new);
        }
        if let Some(old) = old.filter(|old| *old != own) {
            self.chains.write(id, &own, Durability::Synced)?;
            self.chains.write(new, &old, Durability::Synced)?;
        }
        Ok(())
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}
