//! After a crash: the records and the directories agree again. Safe to run twice.
//!
//! Only directories with berth's own staging names are removed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use berth_fs::atomic;

use super::attach::unmount_leftover;
use super::{Volume, VolumeStore, records};
use crate::names::{self, DATA, Entry, POPULATE, POPULATED};
use crate::{LocalOptions, VolumeError};

/// What [`recover`](VolumeStore::recover) mended and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Half-made volumes, copies and removals that were cleared away.
    pub cleared: Vec<String>,
    /// Volumes whose creation or copy-up was brought to its end, or whose removal was undone.
    pub finished: Vec<String>,
    /// Volumes that have a record and no directory.
    pub missing: Vec<String>,
    /// Entries that are no volumes and were left alone.
    pub foreign: Vec<String>,
}

impl VolumeStore {
    /// Makes the records and the directories agree. `running` are the full ids of the containers
    /// that live: the mounts of their volumes stay.
    pub fn recover(&self, running: &[String]) -> Result<Recovered, VolumeError> {
        let mut found = Recovered::default();
        let recorded = self.db.read(records::all)?;
        let names: HashSet<&str> = recorded.iter().map(|volume| volume.name.as_str()).collect();
        let mut entries = self.entries()?;
        entries.sort();
        for entry in &entries {
            match names::classify(entry) {
                Entry::Volume(_) => {}
                Entry::Creating(name) => self.recover_creation(name, &names, &mut found)?,
                Entry::Removing(name) => self.recover_removal(name, &names, &mut found)?,
                Entry::Foreign => found.foreign.push(entry.clone()),
            }
        }
        for name in self.entries()? {
            if let Entry::Volume(name) = names::classify(&name) {
                self.recover_copy(name, &mut found)?;
            }
        }
        for volume in &recorded {
            if !is_there(&self.paths(&volume.name).home)? {
                found.missing.push(volume.name.clone());
            }
        }
        self.recover_mounts(&recorded, running)?;
        atomic::sync_dir(&self.root).map_err(VolumeError::io("sync", &self.root))?;
        Ok(found)
    }

    fn recover_creation(
        &self,
        name: &str,
        recorded: &HashSet<&str>,
        found: &mut Recovered,
    ) -> Result<(), VolumeError> {
        let paths = self.paths(name);
        if recorded.contains(name) && !is_there(&paths.home)? {
            std::fs::rename(&paths.create, &paths.home)
                .map_err(VolumeError::io("name the directory", &paths.home))?;
            found.finished.push(name.to_owned());
        } else {
            remove_tree(&paths.create)?;
            found.cleared.push(name.to_owned());
        }
        Ok(())
    }

    fn recover_removal(
        &self,
        name: &str,
        recorded: &HashSet<&str>,
        found: &mut Recovered,
    ) -> Result<(), VolumeError> {
        let paths = self.paths(name);
        if recorded.contains(name) && !is_there(&paths.home)? {
            std::fs::rename(&paths.remove, &paths.home)
                .map_err(VolumeError::io("name the directory", &paths.home))?;
            found.finished.push(name.to_owned());
        } else {
            remove_tree(&paths.remove)?;
            found.cleared.push(name.to_owned());
        }
        Ok(())
    }

    fn recover_copy(&self, name: &str, found: &mut Recovered) -> Result<(), VolumeError> {
        let paths = self.paths(name);
        for base in [&paths.home, &paths.data] {
            let half = base.join(POPULATE);
            if is_there(&half)? {
                remove_tree(&half)?;
                found.cleared.push(format!("{name}/{POPULATE}"));
            }
            let whole = base.join(POPULATED);
            if is_there(&whole)? {
                super::populate::move_in(&whole, &paths.data)?;
                found.finished.push(name.to_owned());
            }
        }
        Ok(())
    }

    /// Learns which volumes are mounted for whom, and unmounts those that nobody uses.
    fn recover_mounts(&self, recorded: &[Volume], running: &[String]) -> Result<(), VolumeError> {
        let running: HashSet<&str> = running.iter().map(String::as_str).collect();
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for entry in self.refs()? {
            if running.contains(entry.container.as_str()) {
                let list = users.entry(entry.volume).or_default();
                if !list.contains(&entry.container) {
                    list.push(entry.container);
                }
            }
        }
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.clear();
        for volume in recorded.iter().filter(|volume| LocalOptions::mounts(&volume.options)) {
            let paths = self.paths(&volume.name);
            match users.remove(&volume.name) {
                Some(containers) => {
                    mounted.insert(volume.name.clone(), containers);
                }
                None => unmount_leftover(&paths)?,
            }
        }
        Ok(())
    }
}

fn is_there(path: &Path) -> Result<bool, VolumeError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(VolumeError::io("examine", path)(error)),
    }
}

/// Removes a tree that has one of berth's staging names.
fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    // A mount inside would be emptied with it.
    if super::attach::is_mounted(&path.join(DATA)) {
        super::attach::unmount(&path.join(DATA))?;
    }
    std::fs::remove_dir_all(path).map_err(VolumeError::io("remove", path))
}
