//! What `RUN --mount=type=cache` keeps from one build to the next.
//!
//! ```text
//! <data-root>/build-cache/<id>/   what containers see
//! <data-root>/tmp/cache-<id>/     the same before it is on record, or after
//! ```
//!
//! A directory is renamed in when its record is written and out before that goes, so each one here
//! has a record; a record whose directory is not there is dropped at the start.

mod prune;
mod records;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_build::instruction::Sharing;
use berth_db::Db;
use berth_types::{HexId, Owner, Timestamp};
use tokio::sync::Notify;

pub(crate) use prune::{PruneOptions, TYPE};
pub use records::SCHEMA;

use crate::blocking::blocking;
use crate::error::EngineError;

/// What a cache is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// `id`, or where it is mounted.
    pub(crate) name: String,
    /// What it began with: who asks for another beginning gets another cache.
    pub(crate) base: String,
}

/// A cache on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) id: HexId,
    pub(crate) key: Key,
    pub(crate) created: Timestamp,
    pub(crate) used: Timestamp,
    pub(crate) uses: i64,
}

/// The caches of one data root.
#[derive(Debug)]
pub(crate) struct Caches {
    root: PathBuf,
    tmp: PathBuf,
    db: Arc<Db>,
    /// Held while it is decided who gets what, and over records; never over files' content.
    deciding: Mutex<()>,
    held: Mutex<HashMap<HexId, Holders>>,
    freed: Notify,
}

/// Who uses a cache at the moment.
#[derive(Debug)]
struct Holders {
    count: usize,
    /// Whether others may join.
    is_shared: bool,
}

/// A cache that is used until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    caches: Arc<Caches>,
    id: HexId,
    path: PathBuf,
}

enum Taken {
    Yes(InUse),
    /// All are in use, and this one waits.
    Busy,
    /// There is none for it.
    None,
}

impl Caches {
    /// Opens the directory, which is created when missing, and drops records of what is not there.
    pub(crate) fn open(data_root: &Path, db: Arc<Db>, owner: Owner) -> Result<Self, EngineError> {
        let (root, tmp) = (data_root.join("build-cache"), data_root.join("tmp"));
        make_dir(&root).map_err(EngineError::io("create", &root))?;
        for dir in [&root, &tmp].into_iter().filter(|_| owner != Owner::ROOT) {
            // What is mounted into containers is below.
            crate::data_root::narrow(dir, owner).map_err(EngineError::io("open", dir))?;
        }
        let caches = Self {
            root,
            tmp,
            db,
            deciding: Mutex::default(),
            held: Mutex::default(),
            freed: Notify::new(),
        };
        let gone: Vec<Cache> =
            caches.all()?.into_iter().filter(|cache| !caches.path(&cache.id).is_dir()).collect();
        for cache in gone {
            caches.db.write(|tx| records::delete(tx, &cache.id))?;
        }
        Ok(caches)
    }

    /// Every cache, the one that was used last at the end.
    pub(crate) fn all(&self) -> Result<Vec<Cache>, EngineError> {
        Ok(self.db.read(records::all)?)
    }

    fn path(&self, id: &HexId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Whether somebody uses it, and how many bytes it takes.
    pub(crate) fn usage(&self, cache: &Cache) -> Result<(bool, u64), EngineError> {
        let path = self.path(&cache.id);
        let mut meter = berth_fs::allocated::Meter::new(berth_fs::allocated::Sameness::Inode);
        let size = meter.tree(&path).map_err(EngineError::io("measure", &path))?;
        Ok((self.held().contains_key(&cache.id), size))
    }

    /// A cache for somebody, who may have to wait for it. `fill` makes what a new one begins with.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        key: Key,
        sharing: Sharing,
        fill: impl FnOnce(&Path) -> Result<(), EngineError> + Send + 'static,
    ) -> Result<InUse, EngineError> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let (caches, wanted) = (Arc::clone(self), key.clone());
            match blocking(move || caches.take(&wanted, sharing, None)).await? {
                Taken::Yes(cache) => return Ok(cache),
                Taken::Busy => freed.await,
                Taken::None => break,
            }
        }
        let caches = Arc::clone(self);
        blocking(move || {
            let new = New::make(&caches, fill)?;
            match caches.take(&key, sharing, Some(&new))? {
                Taken::Yes(cache) => Ok(cache),
                // Somebody else made one meanwhile, and holds it: this one is as good.
                Taken::Busy | Taken::None => caches.add(&key, sharing, &new),
            }
        })
        .await
    }

    fn take(
        self: &Arc<Self>,
        key: &Key,
        sharing: Sharing,
        new: Option<&New>,
    ) -> Result<Taken, EngineError> {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates: Vec<Cache> =
            self.all()?.into_iter().filter(|cache| cache.key == *key).collect();
        let may_take = |cache: &&Cache| match self.held().get(&cache.id) {
            None => true,
            Some(holders) => holders.is_shared && sharing == Sharing::Shared,
        };
        if let Some(cache) = candidates.iter().rev().find(may_take) {
            self.db.write(|tx| records::touch(tx, &cache.id, Timestamp::now()))?;
            return Ok(Taken::Yes(self.hold(cache.id.clone(), sharing)));
        }
        match new {
            None if sharing == Sharing::Locked && !candidates.is_empty() => Ok(Taken::Busy),
            None => Ok(Taken::None),
            Some(new) => Ok(Taken::Yes(self.record(key, sharing, new)?)),
        }
    }

    fn add(self: &Arc<Self>, key: &Key, sharing: Sharing, new: &New) -> Result<InUse, EngineError> {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        self.record(key, sharing, new)
    }

    fn record(
        self: &Arc<Self>,
        key: &Key,
        sharing: Sharing,
        new: &New,
    ) -> Result<InUse, EngineError> {
        let now = Timestamp::now();
        let cache =
            Cache { id: new.id.clone(), key: key.clone(), created: now, used: now, uses: 1 };
        self.db.write(|tx| records::insert(tx, &cache))?;
        let path = self.path(&new.id);
        if let Err(error) = std::fs::rename(&new.path, &path) {
            self.db.write(|tx| records::delete(tx, &new.id))?;
            return Err(EngineError::io("create", &path)(error));
        }
        Ok(self.hold(new.id.clone(), sharing))
    }

    fn hold(self: &Arc<Self>, id: HexId, sharing: Sharing) -> InUse {
        let is_shared = sharing == Sharing::Shared;
        self.held().entry(id.clone()).or_insert(Holders { count: 0, is_shared }).count += 1;
        InUse { caches: Arc::clone(self), path: self.path(&id), id }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<HexId, Holders>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut held = self.caches.held();
        if let Some(holders) = held.get_mut(&self.id) {
            holders.count -= 1;
            if holders.count == 0 {
                held.remove(&self.id);
            }
        }
        drop(held);
        self.caches.freed.notify_waiters();
    }
}

/// A directory that may become a cache; otherwise it goes.
struct New {
    id: HexId,
    path: PathBuf,
}

impl New {
    fn make(
        caches: &Caches,
        fill: impl FnOnce(&Path) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        let id = HexId::random();
        let path = caches.tmp.join(format!("cache-{id}"));
        let new = Self { id, path };
        make_dir(&new.path).map_err(EngineError::io("create", &new.path))?;
        fill(&new.path)?;
        // What it began with must be whole whenever it is on record.
        let dir = std::fs::File::open(&new.path).map_err(EngineError::io("open", &new.path))?;
        rustix::fs::syncfs(&dir)
            .map_err(|error| EngineError::io("sync", &new.path)(error.into()))?;
        Ok(new)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %self.path.display(), "left to the next start");
            }
            _ => {}
        }
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests;
