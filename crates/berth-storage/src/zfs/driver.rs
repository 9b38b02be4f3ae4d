//! The driver's calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use berth_types::{LayerId, Owner};

use super::error::ZfsError;
use super::home::mount_point;
use super::set::Set;
use super::{home, open};
use crate::home::clear_mount_point;
use crate::{
    Access, CreateOptions, LayerState, MountPlan, NativeDiff, Prepared, StorageDriver,
    StorageError, Teardown,
};

pub(crate) const NAME: &str = "zfs";

/// The driver over one home directory and one dataset.
#[derive(Debug)]
pub struct Zfs {
    set: Arc<Set>,
    /// Whose the roots of new layers are.
    root: Owner,
}

/// The datasets that this process has open: what is known of each is known once.
static OPEN: Mutex<Vec<(String, Weak<Set>)>> = Mutex::new(Vec::new());

impl Zfs {
    /// Opens the driver whose home is `dir`, creating it when it is missing, over the dataset that the
    /// options name or that `dir` is on. One that is open already is opened once more.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        let dataset = open::choose(dir, options)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, set)| set.strong_count() > 0);
        let found = open.iter().find(|(name, _)| name == dataset.as_str());
        let found = found.and_then(|(_, set)| set.upgrade());
        if let Some(set) = found.filter(|set| set.home == dir) {
            home::make_dirs(dir, root)?;
            return Ok(Self { set, root });
        }
        let name = dataset.to_string();
        let set = Arc::new(Set::open(dir, dataset, root)?);
        open.push((name, Arc::downgrade(&set)));
        Ok(Self { set, root })
    }
}

impl StorageDriver for Zfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        Set::describe(&self.set)
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.set.check(id)?;
        let mounted_at = mount_point(&self.set.home, id).display().to_string();
        let pairs = [("Dataset", self.set.dataset.layer(id)), ("Mountpoint", mounted_at)];
        Ok(Some(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        let quota = wanted_quota(options)?;
        if self.set.state_of(id).is_some() {
            return Err(StorageError::LayerExists { driver: NAME, id: id.clone() });
        }
        if let Some(parent) = parent {
            self.set.check(parent)?;
        }
        self.set.make(id, parent, quota, self.root)
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        let state = self.set.check(id)?;
        if access == Access::Write && state == LayerState::Committed {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        let root = mount_point(&self.set.home, id);
        let mount = MountPlan {
            fs_type: NAME.to_owned(),
            source: self.set.dataset.layer(id).into(),
            target: root.clone(),
            work_dir: None,
            options: vec![if access == Access::Write { "rw" } else { "ro" }.to_owned()],
        };
        let teardown = vec![Teardown::RemoveDir { path: root.clone() }];
        Ok(Prepared { root, mounts: vec![mount], teardown })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        clear_mount_point(&mount_point(&self.set.home, id))
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        match self.set.check(id)? {
            LayerState::Committed => Ok(()),
            LayerState::Active => self.set.freeze(id),
        }
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.release(id)?;
        self.set.take_off(id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        if self.set.reap()? {
            Set::reap_later(&self.set);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        self.set.list()
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        for id in home::mounted(&self.set.home)?.iter().filter(|id| !keep(id)) {
            self.release(id)?;
        }
        self.set.clean_up()
    }

    fn sync(&self) -> Result<(), StorageError> {
        // Frozen layers are on the disk; this is for what was written to the others.
        Ok(self.set.runner.zpool(&["sync", self.set.dataset.pool()]).map(drop)?)
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.set.check(id)?;
        self.release(id)?;
        self.set.move_aside(id, lost_and_found)
    }

    fn mounts_to_fill(&self) -> bool {
        true
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }
}

/// What `--storage-opt` asks of a new layer, in the words of ZFS.
fn wanted_quota(options: &CreateOptions) -> Result<Option<&str>, StorageError> {
    if !options.mount_label.is_empty() {
        return Err(StorageError::MountLabel);
    }
    let mut wanted = None;
    for (key, value) in &options.storage_opt {
        if !key.eq_ignore_ascii_case("size") {
            return Err(StorageError::Option(format!("Unknown option {}", key.to_lowercase())));
        }
        wanted = Some(value.as_str());
    }
    Ok(wanted)
}

/// Whose words those of a failed command are: the client's, when it is his size that was refused.
pub(super) fn refusal(error: ZfsError, quota: Option<&str>) -> StorageError {
    match error {
        ZfsError::Command { said, .. }
            if quota.is_some() && ["numeric", "quota"].iter().any(|word| said.contains(word)) =>
        {
            StorageError::Option(said)
        }
        error => error.into(),
    }
}
