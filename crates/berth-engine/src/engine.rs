//! The engine itself: what every use case reaches, its start and its end.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use berth_api::daemon::Version;
use berth_db::{Db, Schema};
use berth_fs::reserve::Reserve;
use berth_images::ImageStore;
use berth_layers::LayerStore;
use berth_networks::Networks;
use berth_runtime::{selftest, shim};
use berth_types::IdMaps;
use berth_volumes::VolumeStore;

use crate::blocking::blocking;
use crate::build::Builds;
use crate::config::{EngineConfig, Reloadable};
use crate::containers::{Containers, restore};
use crate::data_root::DataRoot;
use crate::error::EngineError;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::registry::Registries;
use crate::storage::Upkeep;

/// A handle on the engine, cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("data_root", &self.config().data_root)
            .finish_non_exhaustive()
    }
}

struct Inner {
    config: EngineConfig,
    reloadable: Mutex<Reloadable>,
    id: String,
    data_root: DataRoot,
    db: Arc<Db>,
    layers: Arc<LayerStore>,
    images: Arc<ImageStore>,
    volumes: Arc<VolumeStore>,
    networks: Arc<Networks>,
    registries: Registries,
    containers: Containers,
    builds: Builds,
    events: Events,
    host: berth_runtime::Host,
    prunes: Prunes,
    /// What the self-test warns of, once it has run.
    self_test: OnceLock<Vec<String>>,
    watcher: shim::Program,
    upkeep: Upkeep,
    metrics: Metrics,
}

/// One prune of each kind at a time, as in Docker.
#[derive(Debug, Default)]
pub(crate) struct Prunes {
    pub(crate) containers: tokio::sync::Mutex<()>,
    pub(crate) images: tokio::sync::Mutex<()>,
    pub(crate) volumes: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Opens the data root, brings records and bytes into agreement, and finds the containers that
    /// went on while no engine ran.
    pub async fn open(config: EngineConfig) -> Result<Self, EngineError> {
        let stores = blocking({
            let config = config.clone();
            move || Stores::open(&config)
        })
        .await?;
        let reloadable = Mutex::new(Reloadable::from(&config));
        let (watcher, exposed) = shim::Program::open(&config.shim);
        if let Some(error) = exposed {
            let path = config.shim.display();
            tracing::warn!(%error, "{path} cannot be hidden behind a read-only mount");
        }
        let engine = Self {
            inner: Arc::new(Inner {
                config,
                reloadable,
                id: stores.id,
                data_root: stores.data_root,
                db: stores.db,
                layers: stores.layers,
                images: stores.images,
                volumes: stores.volumes,
                networks: stores.networks,
                registries: stores.registries,
                containers: Containers::default(),
                builds: stores.builds,
                events: Events::default(),
                host: stores.host,
                prunes: Prunes::default(),
                self_test: OnceLock::new(),
                watcher,
                upkeep: Upkeep::default(),
                metrics: Metrics::default(),
            }),
        };
        engine.watch_pool();
        restore::run(&engine).await?;
        engine.end_interrupted_builds();
        engine.start_self_test();
        engine.start_storage_check();
        Ok(engine)
    }

    /// Proves in the background that device rules and the seccomp filter bite on this machine; what
    /// does not is said in the log and in `info`.
    fn start_self_test(&self) {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let config = engine.config();
            let tested = selftest::self_test(engine.watcher(), &config.exec_root, engine.host());
            let warnings = match tested {
                Ok(result) => result.warnings(),
                Err(error) => {
                    let cause = berth_types::kind::chain(&error);
                    vec![format!("WARNING: the self-test of containers could not be run: {cause}")]
                }
            };
            for warning in &warnings {
                tracing::warn!("{warning}");
            }
            if warnings.is_empty() {
                tracing::debug!("device rules and the seccomp filter bite");
            }
            if engine.inner.self_test.set(warnings).is_err() {
                tracing::debug!("the self-test ran twice");
            }
        });
    }

    /// The watcher's program.
    pub(crate) fn watcher(&self) -> &shim::Program {
        &self.inner.watcher
    }

    /// What the self-test warns of; nothing until it has run.
    pub(crate) fn self_test_warnings(&self) -> &[String] {
        self.inner.self_test.get().map_or(&[], Vec::as_slice)
    }

    /// What the engine was told at its start.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// The part of the configuration that may change, as it is now.
    pub fn reloadable(&self) -> Reloadable {
        self.inner.reloadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a changed configuration and says so in an event with these attributes.
    pub fn reload(&self, new: Reloadable, attributes: std::collections::BTreeMap<String, String>) {
        self.registries().reload(&new.registry);
        *self.inner.reloadable.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.events().publish_map("daemon", "reload", &self.inner.id, attributes);
    }

    /// The engine's id: a UUID that stays with the data root.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The event bus.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// What ids of containers are on the host.
    pub(crate) fn ids(&self) -> &IdMaps {
        &self.config().ids
    }

    pub(crate) fn db(&self) -> &Arc<Db> {
        &self.inner.db
    }

    pub(crate) fn layers(&self) -> &Arc<LayerStore> {
        &self.inner.layers
    }

    pub(crate) fn images(&self) -> &Arc<ImageStore> {
        &self.inner.images
    }

    pub(crate) fn volumes(&self) -> &Arc<VolumeStore> {
        &self.inner.volumes
    }

    pub(crate) fn networks(&self) -> &Arc<Networks> {
        &self.inner.networks
    }

    pub(crate) fn registries(&self) -> &Registries {
        &self.inner.registries
    }

    pub(crate) fn containers(&self) -> &Containers {
        &self.inner.containers
    }

    pub(crate) fn builds(&self) -> &Builds {
        &self.inner.builds
    }

    pub(crate) fn host(&self) -> &berth_runtime::Host {
        &self.inner.host
    }

    pub(crate) fn prunes(&self) -> &Prunes {
        &self.inner.prunes
    }

    /// What looking after the storage keeps in memory.
    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.inner.upkeep
    }

    /// What is counted for those who watch the engine.
    pub(crate) fn counted(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Where requests may spool; emptied at each start.
    pub(crate) fn tmp(&self) -> std::path::PathBuf {
        self.inner.data_root.path().join("tmp")
    }

    /// Ends the engine: stops the containers unless they are to stay, and tidies the database.
    pub async fn shutdown(&self) {
        if !self.reloadable().live_restore {
            self.stop_all_for_shutdown().await;
        }
        let engine = self.clone();
        if let Err(error) = blocking(move || engine.layers().driver().close()).await {
            tracing::warn!(error = %berth_types::kind::chain(&error), "storage is not closed");
        }
        let db = Arc::clone(self.db());
        if let Err(error) = blocking(move || db.checkpoint()).await {
            tracing::warn!(error = %berth_types::kind::chain(&error), "database not tidied");
        }
    }

    /// What this build calls itself.
    pub fn version(&self) -> Version {
        crate::system::version()
    }
}

/// The tables of every store.
pub(crate) const SCHEMAS: &[&Schema] = &[
    &crate::containers::SCHEMA,
    &berth_layers::SCHEMA,
    &berth_images::SCHEMA,
    &berth_volumes::SCHEMA,
    &berth_networks::SCHEMA,
    &crate::build::SCHEMA,
];

/// What [`Engine::open`] opens on a blocking thread.
struct Stores {
    id: String,
    data_root: DataRoot,
    db: Arc<Db>,
    layers: Arc<LayerStore>,
    images: Arc<ImageStore>,
    volumes: Arc<VolumeStore>,
    networks: Arc<Networks>,
    registries: Registries,
    builds: Builds,
    host: berth_runtime::Host,
}

impl Stores {
    fn open(config: &EngineConfig) -> Result<Self, EngineError> {
        let root = config.data_root.as_path();
        crate::system::selinux::check(config.selinux_enabled)?;
        let owner = config.ids.root();
        let data_root = DataRoot::open_for(root, owner)?;
        // A start takes a little room itself; what it lends of this it gives back below.
        let room = Reserve::at(&root.join("containers"));
        room.lend();
        make_dir(&config.exec_root)?;
        make_dir(&config.exec_root.join("containers"))?;
        let db = Arc::new(Db::open(&root.join("berth.db"), SCHEMAS)?);
        // Before the driver makes its home: without the marker the root would look like somebody else's.
        data_root.seal()?;
        let driver = crate::system::open_driver(config)?;
        data_root.clear_tmp().map_err(EngineError::io("empty", &root.join("tmp")))?;
        let id = data_root.engine_id().map_err(EngineError::io("read", root))?;
        let layers =
            Arc::new(LayerStore::open_with(root, driver, Arc::clone(&db), config.layers())?);
        let images = Arc::new(ImageStore::open(Arc::clone(&db), Arc::clone(&layers)));
        let volumes =
            Arc::new(VolumeStore::open_for(&root.join("volumes"), Arc::clone(&db), owner)?);
        let networks =
            Arc::new(Networks::open(crate::system::networks_config(config)?, Arc::clone(&db))?);
        let registries = Registries::open(root, &config.registry, &images)
            .map_err(EngineError::io("open", &root.join("downloads")))?;
        let builds = Builds::open(root, Arc::clone(&db), owner)?;
        let host = berth_runtime::Host::detect();
        room.renew();
        Ok(Self { id, data_root, db, layers, images, volumes, networks, registries, builds, host })
    }
}

fn make_dir(path: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(EngineError::io("create", path))
}
