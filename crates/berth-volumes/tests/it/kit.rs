//! A volume store on a temp directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_db::Db;
use berth_volumes::{NewVolume, SCHEMA, VolumeFilter, VolumeStore};
use tempfile::TempDir;

pub(crate) struct Kit {
    dir: TempDir,
    pub(crate) db: Arc<Db>,
    pub(crate) store: VolumeStore,
}

impl Kit {
    pub(crate) fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    fn open(dir: TempDir) -> Self {
        let db = Arc::new(Db::open(&dir.path().join("berth.db"), &[&SCHEMA]).unwrap());
        let store = VolumeStore::open(&dir.path().join("volumes"), Arc::clone(&db)).unwrap();
        Self { dir, db, store }
    }

    /// As after a crash: nothing in memory survives.
    pub(crate) fn reopened(self) -> Self {
        let Self { dir, db, store } = self;
        drop((db, store));
        Self::open(dir)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("volumes")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let volumes = self.store.list(&VolumeFilter::default()).unwrap();
        volumes.into_iter().map(|volume| volume.name).collect()
    }

    /// Every entry below the store's directory, sorted.
    pub(crate) fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.root()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(self.root()).unwrap().display().to_string());
                if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                    pending.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn named(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), ..NewVolume::default() }
}

pub(crate) fn put(path: &Path, content: &str) {
    berth_fs::atomic::write(path, content.as_bytes()).unwrap();
}
