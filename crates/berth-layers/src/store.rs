//! The store itself: lookups, references, removal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use berth_db::{Db, Tx};
use berth_storage::StorageDriver;
use berth_types::{ChainId, ContainerId, DiffId, IdMaps, LayerId, Timestamp};

use crate::activations::Activations;
use crate::files::Files;
use crate::template::Templates;
use crate::{Ingest, LayerError, NewLayer, TarStream, record};

/// An image layer as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The layer and everything below it.
    pub chain: ChainId,
    /// The digest of its uncompressed tar.
    pub diff: DiffId,
    /// What it stands on.
    pub parent: Option<ChainId>,
    /// Bytes of its own.
    pub size: u64,
    /// Bytes of it and everything below.
    pub chain_size: u64,
    /// Whether a file of it or of what is below may have a `security.capability`.
    pub capabilities: bool,
    /// How many layers there are down to the base, itself included.
    pub depth: u32,
    /// When it was recorded.
    pub created: Timestamp,
    /// The driver's name for it.
    pub layer: LayerId,
}

/// A container's layer as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RwLayer {
    /// Whose it is.
    pub container: ContainerId,
    /// The driver that holds it.
    pub driver: String,
    /// The driver's name for it; its init layer is [`LayerId::init`] of it.
    pub mount: LayerId,
    /// The image's top layer.
    pub parent: Option<ChainId>,
    /// What the container wrote, as measured when it could no longer change; `None` when it must
    /// be measured. A layer that no container has run on yet has `Some(0)`.
    pub size: Option<u64>,
    /// `--storage-opt` of the container.
    pub storage_opt: BTreeMap<String, String>,
}

/// A layer whose record is gone and whose bytes wait for [`LayerStore::purge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The image layer; `None` for a container's, and for what containers of an image began as.
    pub chain: Option<ChainId>,
    /// The driver's name for it.
    pub layer: LayerId,
}

/// The layer store over one driver. Clones share everything.
///
/// Layers of other drivers, of times when another one was chosen, are on record in the same tables.
/// They are not seen here, and nothing that happens here touches them.
#[derive(Debug, Clone)]
pub struct LayerStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) driver: Arc<dyn StorageDriver>,
    pub(crate) db: Arc<Db>,
    pub(crate) files: Files,
    pub(crate) activations: Activations,
    pub(crate) templates: Templates,
    pub(crate) lost_and_found: PathBuf,
    /// What a repair took out of its place and has not moved away yet: no record knows these.
    pub(crate) replaced: Mutex<BTreeSet<LayerId>>,
    pub(crate) settings: Settings,
}

/// What a store is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What ids of containers are in layers. Tars that come in and go out have ids of the container.
    pub ids: IdMaps,
    /// The most layers that a new image may have; the driver may stack fewer.
    pub max_depth: u32,
}

impl Default for Settings {
    /// Docker's limit, and the same ids on both sides.
    fn default() -> Self {
        Self { ids: IdMaps::default(), max_depth: 125 }
    }
}

impl LayerStore {
    /// Opens the store below the data root. [`recover`](Self::recover) comes before anything else.
    pub fn open(
        root: &Path,
        driver: Arc<dyn StorageDriver>,
        db: Arc<Db>,
    ) -> Result<Self, LayerError> {
        Self::open_with(root, driver, db, Settings::default())
    }

    /// As [`open`](Self::open), with other settings than Docker's.
    pub fn open_with(
        root: &Path,
        driver: Arc<dyn StorageDriver>,
        db: Arc<Db>,
        settings: Settings,
    ) -> Result<Self, LayerError> {
        let files = Files::open(root)?;
        let lost_and_found = root.join("lost+found");
        let inner = Inner {
            driver,
            db,
            files,
            activations: Activations::default(),
            templates: Templates::default(),
            lost_and_found,
            replaced: Mutex::default(),
            settings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The driver below.
    pub fn driver(&self) -> &dyn StorageDriver {
        &*self.inner.driver
    }

    /// The driver below, for another store over it.
    pub fn shared_driver(&self) -> Arc<dyn StorageDriver> {
        Arc::clone(&self.inner.driver)
    }

    /// The most layers that a new image may have.
    pub fn max_depth(&self) -> u32 {
        self.inner.settings.max_depth
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The record of a layer that this driver has.
    pub fn get(&self, chain: &ChainId) -> Result<Option<Layer>, LayerError> {
        self.inner.get(chain)
    }

    /// Every image layer that this driver has, parents before children.
    pub fn list(&self) -> Result<Vec<Layer>, LayerError> {
        self.inner.db.read(|conn| Ok(record::list(conn, self.inner.driver.name())?))
    }

    /// The `GraphDriver.Data` of an image.
    pub fn metadata(
        &self,
        chain: &ChainId,
    ) -> Result<Option<BTreeMap<String, String>>, LayerError> {
        let layer = self.inner.known(chain)?;
        Ok(self.inner.driver.metadata(&layer.layer)?)
    }

    /// The layer's tar, bit for bit, checked against its DiffID while it is read.
    ///
    /// The layer must be retained by somebody while it is read.
    pub fn tar_stream(&self, chain: &ChainId) -> Result<TarStream, LayerError> {
        TarStream::open(&self.inner, &self.inner.known(chain)?)
    }

    /// Plans new layers: all of an archive, a pull or a commit at once. `op` names the
    /// operation in the crash-test steps: `load`, `commit`.
    ///
    /// Records an intent for each, so that a crash leaves nothing behind.
    pub fn begin(&self, op: &'static str, layers: Vec<NewLayer>) -> Result<Ingest, LayerError> {
        Ingest::begin(Arc::clone(&self.inner), op, layers)
    }

    /// Whether any driver has the layer, as `tx` sees it.
    pub fn is_known(&self, tx: &Tx<'_>, chain: &ChainId) -> Result<bool, LayerError> {
        Ok(record::is_known(tx, chain)?)
    }

    /// The other drivers that have layers on record, sorted.
    pub fn other_drivers(&self) -> Result<Vec<String>, LayerError> {
        self.inner.db.read(|conn| Ok(record::elsewhere(conn, self.inner.driver.name())?))
    }

    /// How many image layers each other driver has, by its name.
    pub fn count_elsewhere(&self) -> Result<Vec<(String, u64)>, LayerError> {
        self.inner.db.read(|conn| Ok(record::count_elsewhere(conn, self.inner.driver.name())?))
    }

    /// Notes that `owner` (for example `image:sha256:…`) needs `chain`.
    pub fn retain(&self, tx: &Tx<'_>, chain: &ChainId, owner: &str) -> Result<(), LayerError> {
        if record::get(tx, self.inner.driver.name(), chain)?.is_none() {
            return Err(LayerError::Unknown { chain: chain.clone() });
        }
        Ok(record::retain(tx, self.inner.driver.name(), chain, owner)?)
    }

    /// Notes that `owner` no longer needs `chain`, and removes the records of the layers that
    /// nobody needs any more: child first. Give them to [`purge`](Self::purge) after the commit.
    pub fn release(
        &self,
        tx: &Tx<'_>,
        chain: &ChainId,
        owner: &str,
    ) -> Result<Vec<Removed>, LayerError> {
        record::release(tx, self.inner.driver.name(), chain, owner)?;
        record::collect(tx, self.driver(), chain)
    }

    /// Takes the bytes of removed layers off the driver. Quick: [`reap`](Self::reap) deletes them.
    ///
    /// Goes on after a failure and gives the first one; what failed is tried again by
    /// [`reap`](Self::reap).
    pub fn purge(&self, removed: &[Removed]) -> Result<(), LayerError> {
        self.inner.purge(removed)
    }

    /// Deletes what was taken off. For a background thread, after removals and aborted ingests
    /// and once after the start; may take long, and runs beside everything else.
    pub fn reap(&self) -> Result<(), LayerError> {
        let Inner { driver, db, files, .. } = &*self.inner;
        let name = driver.name();
        let removals = db.read(|conn| Ok::<_, LayerError>(record::removals(conn, name)?))?;
        let mut first = None;
        let mut gone = Vec::new();
        for layer in removals {
            match driver.remove(&layer) {
                Ok(()) => gone.push(layer),
                Err(error) => {
                    first.get_or_insert(LayerError::from(error));
                }
            }
        }
        match driver.reap() {
            Ok(()) if gone.is_empty() => {}
            Ok(()) => {
                files.sync_names()?;
                // From here on a power cut cannot bring them back, nor their files.
                db.write(|tx| {
                    gone.iter().try_for_each(|layer| {
                        Ok::<_, LayerError>(record::forget_intent(tx, layer)?)
                    })
                })?;
            }
            Err(error) => {
                first.get_or_insert(LayerError::from(error));
            }
        }
        files.reap()?;
        first.map_or(Ok(()), Err)
    }
}

impl Inner {
    pub(crate) fn get(&self, chain: &ChainId) -> Result<Option<Layer>, LayerError> {
        self.db.read(|conn| Ok(record::get(conn, self.driver.name(), chain)?))
    }

    pub(crate) fn known(&self, chain: &ChainId) -> Result<Layer, LayerError> {
        self.get(chain)?.ok_or_else(|| LayerError::Unknown { chain: chain.clone() })
    }

    /// Whether any driver has the layer; then its files are needed.
    pub(crate) fn is_recorded(&self, chain: &ChainId) -> Result<bool, LayerError> {
        self.db.read(|conn| Ok(record::is_known(conn, chain)?))
    }

    pub(crate) fn purge(&self, removed: &[Removed]) -> Result<(), LayerError> {
        let mut first = None;
        for Removed { chain, layer } in removed {
            self.templates.forget(layer);
            if let Err(error) = self.driver.remove(layer) {
                first.get_or_insert(LayerError::from(error));
            }
            if let Some(chain) = chain
                && let Err(error) = self.files.remove(chain, || self.is_recorded(chain))
            {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }
}
