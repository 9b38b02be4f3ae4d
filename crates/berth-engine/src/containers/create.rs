//! Creating a container.

use std::sync::Arc;

use berth_api::ApiVersion;
use berth_api::container::{ContainerConfig, CreateRequest, CreateResponse, HostConfig};
use berth_images::Image;
use berth_layers::LayerStore;
use berth_logs::LogDriver;
use berth_storage::CreateOptions;
use berth_types::{ContainerId, Timestamp, kind};
use berth_volumes::mounts::{ContainerMount, MountKind, Request, VolumesFrom};
use berth_volumes::{NewVolume, Volume};

use super::record::Record;
use super::registry::Container;
use super::rootfs::View;
use super::state::State;
use super::{defaults, merge, names, record};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};
use crate::metrics::Action;

/// What a container is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Whatever its maker wants.
    Use,
    /// A step of a build, at whose end it goes.
    Build,
}

impl Engine {
    /// Creates a container: its record, its layer, its volumes. Nothing runs yet.
    pub async fn create_container(
        &self,
        name: Option<String>,
        platform: Option<String>,
        request: CreateRequest,
        version: ApiVersion,
    ) -> Result<CreateResponse, EngineError> {
        self.create_named(name, platform, request, version, Purpose::Use).await
    }

    /// Creates a container for the engine itself, its name made up.
    pub(crate) async fn create_for(
        &self,
        purpose: Purpose,
        request: CreateRequest,
    ) -> Result<CreateResponse, EngineError> {
        self.create_named(None, None, request, ApiVersion::MAX, purpose).await
    }

    async fn create_named(
        &self,
        name: Option<String>,
        platform: Option<String>,
        request: CreateRequest,
        version: ApiVersion,
        purpose: Purpose,
    ) -> Result<CreateResponse, EngineError> {
        let timer = self.counted().begin(Action::Create);
        let id = ContainerId::random();
        let name = match name.as_deref() {
            Some(given) if !given.is_empty() => names::check(given)?.to_owned(),
            _ => names::generate(self.registry()),
        };
        self.registry().reserve(&name, &id)?;
        let engine = self.clone();
        let plan = {
            let name = name.clone();
            blocking(move || {
                let mut plan =
                    Plan::make(&engine, id, name, platform.as_deref(), request, version)?;
                plan.record.of_build = purpose == Purpose::Build;
                Ok::<_, EngineError>(plan)
            })
            .await
        };
        let made = match plan {
            Ok(plan) => self.create_planned(plan).await,
            Err(error) => Err(error),
        };
        match &made {
            Ok(_) => timer.done(),
            Err(_) => self.registry().release(&name),
        }
        made
    }

    async fn create_planned(&self, plan: Plan) -> Result<CreateResponse, EngineError> {
        let engine = self.clone();
        let (container, volumes, warnings) = blocking(move || engine.carry_out(plan)).await?;
        for (volume, is_new) in &volumes {
            if *is_new {
                let driver = [("driver", volume.driver.as_str())];
                self.events().publish("volume", "create", &volume.name, driver);
            }
        }
        if let Err(error) = self.fill_volumes(&container).await {
            // Docker leaves the volumes of a failed create; the container goes.
            if let Err(second) = self.remove(&container, false).await {
                tracing::error!(
                    container = %container.id(), error = %kind::chain(&second),
                    "half-made container not removed"
                );
            }
            return Err(error);
        }
        self.publish_container(&container, "create", []);
        Ok(CreateResponse { id: container.id().to_string(), warnings })
    }

    /// Records everything in one transaction, then makes the directories, which a restart makes
    /// again should it come in between.
    fn carry_out(&self, plan: Plan) -> Result<Made, EngineError> {
        let Plan { mut record, new_volumes, parent, layer, warnings } = plan;
        let staged = self.volumes().stage(&new_volumes)?;
        for (mount, staged) in volume_mounts(&mut record.mounts).zip(&staged) {
            mount.set_volume(staged.volume());
        }
        let state = State::default();
        berth_fs::steps::reached("create.staged");
        berth_fs::steps::reached("create.before-record");
        let layers: &LayerStore = self.layers();
        self.db().write(|tx| {
            record::insert(tx, &record, &state)?;
            self.volumes().record(tx, &staged)?;
            self.volumes().add_refs(tx, record.id.as_str(), &record.mounts)?;
            layers.create_rw(tx, &record.id, parent.as_ref(), &layer)?;
            Ok::<_, EngineError>(())
        })?;
        berth_fs::steps::reached("create.after-record");
        let undo = |error: EngineError| {
            let removed = self.db().write(|tx| {
                record::delete(tx, &record.id)?;
                self.volumes().remove_refs(tx, record.id.as_str())?;
                Ok::<_, EngineError>(layers.remove_rw(tx, &record.id)?)
            });
            match removed.and_then(|layer| Ok(layers.purge(&layer)?)) {
                Ok(()) => {}
                Err(second) => tracing::error!(
                    container = %record.id, error = %kind::chain(&second),
                    "half-made container not removed"
                ),
            }
            error
        };
        let volumes = self.volumes().publish(staged).map_err(|e| undo(e.into()))?;
        layers.ensure_rw(&record.id).map_err(|e| undo(e.into()))?;
        self.ensure_dir(&record.id).map_err(undo)?;
        berth_fs::steps::reached("create.renamed");
        let container = self.registry().insert(Container::new(record, state));
        Ok((container, volumes, warnings))
    }

    /// Makes the container's own directory.
    pub(crate) fn ensure_dir(&self, id: &ContainerId) -> Result<(), EngineError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let dir = self.container_dir(id);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o710)
            .create(&dir)
            .and_then(|()| crate::data_root::let_pass(&dir, self.ids().root()))
            .map_err(EngineError::io("create", &dir))
    }

    /// Copies what the image has where empty volumes are mounted into them.
    pub(super) async fn fill_volumes(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let mounts: Vec<ContainerMount> = {
            let live = container.live();
            let fillable = |mount: &&ContainerMount| mount.kind == MountKind::Volume && mount.copy;
            live.record.mounts.iter().filter(fillable).cloned().collect()
        };
        if mounts.is_empty() || container.live().record.image.is_none() {
            return Ok(());
        }
        let volumes = Arc::clone(self.volumes());
        let user = container.id().to_string();
        self.with_root(container, View::Layers, berth_storage::Access::Read, move |_root, path| {
            for mount in &mounts {
                // A volume with a mount of its own must be there while it is filled.
                volumes.attach(&mount.volume, &user)?;
                let filled = volumes.populate(mount, path);
                volumes.detach(&mount.volume, &user)?;
                filled?;
            }
            Ok::<_, EngineError>(())
        })
        .await
    }
}

type Made = (Arc<Container>, Vec<(Volume, bool)>, Vec<String>);

/// Everything about a new container, checked, before anything is made.
struct Plan {
    record: Record,
    /// One for each mount that is a volume, in the order of the mounts.
    new_volumes: Vec<NewVolume>,
    parent: Option<berth_types::ChainId>,
    layer: CreateOptions,
    warnings: Vec<String>,
}

impl Plan {
    fn make(
        engine: &Engine,
        id: ContainerId,
        name: String,
        platform: Option<&str>,
        request: CreateRequest,
        version: ApiVersion,
    ) -> Result<Self, EngineError> {
        let CreateRequest { mut config, mut host_config, networking_config } = request;
        let image = match config.image.as_str() {
            "" => None,
            reference => Some(engine.images().resolve(reference)?),
        };
        let mut warnings = Vec::new();
        warnings.extend(defaults::check_health(&config, image.as_ref())?);
        if let Some(image) = &image {
            if let Some(own) = image.config.config() {
                merge::below(&mut config, own);
            }
            warnings.extend(defaults::platform_warning(image, platform)?);
        }
        let Some((path, args)) = merge::command(&config) else {
            return Err(ContainerError::NoCommand.into());
        };
        defaults::fill(engine, &mut config, &mut host_config, version)?;
        let mac = config.mac_address.clone();
        // The networks say what they lack in friendlier words than the table of fields.
        let network = berth_networks::check(&host_config, Some(&networking_config), &mac)
            .map_err(bad_request)?;
        let validated = berth_runtime::validate(&config, &mut host_config, engine.host())?;
        if !engine.ids().is_identity() && host_config.userns_mode != "host" {
            berth_runtime::check_remapped(&host_config)?;
        }
        warnings.extend(validated);
        defaults::fill_hostname(&id, &mut config, &host_config);
        berth_networks::check_extra_hosts(&host_config.extra_hosts)?;
        let log = LogDriver::parse(&host_config.log_config.driver, &host_config.log_config.config)?;
        let mounts = resolve_mounts(engine, &config, &host_config)?;
        let log_path = match log {
            LogDriver::None => std::path::PathBuf::new(),
            LogDriver::JsonFile(_) => engine.container_dir(&id).join(format!("{id}-json.log")),
        };
        let new_volumes = mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
            .filter_map(ContainerMount::new_volume)
            .collect();
        let layer = CreateOptions {
            writable: true,
            storage_opt: host_config.storage_opt.clone().into_map(),
            mount_label: String::new(),
        };
        let record = Record {
            id,
            name,
            created: Timestamp::now(),
            path,
            args,
            image: image.as_ref().map(|image| image.id.clone()),
            image_ref: config.image.clone(),
            platform: image.as_ref().map_or("linux", |image| image.config.os()).to_owned(),
            driver: engine.layers().driver().name().to_owned(),
            config,
            host: host_config,
            mounts,
            network,
            log_path,
            of_build: false,
        };
        let parent = image.as_ref().and_then(top_chain);
        Ok(Self { record, new_volumes, parent, layer, warnings })
    }
}

/// A "not found" about anything but the image: with 404 clients would take the image for missing and
/// pull it.
fn bad_request(error: impl Into<EngineError>) -> EngineError {
    let error = error.into();
    if berth_types::Classify::kind(&error) == berth_types::ErrorKind::NotFound {
        return ContainerError::BadRequest(Box::new(error)).into();
    }
    error
}

fn top_chain(image: &Image) -> Option<berth_types::ChainId> {
    image.config.top_chain()
}

fn volume_mounts(mounts: &mut [ContainerMount]) -> impl Iterator<Item = &mut ContainerMount> {
    mounts.iter_mut().filter(|mount| mount.kind == MountKind::Volume)
}

fn resolve_mounts(
    engine: &Engine,
    config: &ContainerConfig,
    host: &HostConfig,
) -> Result<Vec<ContainerMount>, EngineError> {
    let mut from = Vec::new();
    for spec in &*host.volumes_from {
        let parsed = VolumesFrom::parse(spec)?;
        let other = engine.registry().find(&parsed.container).map_err(bad_request)?;
        let mounts = other.record().mounts;
        from.push((parsed, mounts));
    }
    let volumes: Vec<String> = config.volumes.keys().cloned().collect();
    let mounts = berth_volumes::mounts::resolve(&Request {
        binds: &host.binds,
        mounts: &host.mounts,
        tmpfs: &host.tmpfs,
        volumes: &volumes,
        volumes_from: &from,
        volume_driver: &host.volume_driver,
        data_root: &engine.config().data_root,
    })?;
    for mount in &mounts {
        if mount.kind == MountKind::Bind {
            mount.ensure_source(engine.ids().root())?;
        }
    }
    Ok(mounts)
}
