//! `berth storage backup`: a copy of the data root that agrees with itself, made while everything goes on.
//!
//! Records are copied as they are at one moment, and from that moment on no image layer is removed.
//! What containers and volumes hold is copied as it is when its turn comes; the containers concerned
//! are frozen meanwhile. What was removed by then leaves the copied records.
//!
//! Everything is made in `DEST.partial`, synced, and renamed: a DEST that exists is complete.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::image::ProgressMessage;
use berth_db::Db;
use berth_fs::copy::Mirror;
use berth_fs::root::Root;
use berth_fs::steps;
use berth_images::ImageStore;
use berth_layers::{Hold, LayerStore, RwLayer};
use berth_storage::transfer::{self, Transfer};
use berth_types::{ContainerId, Owner, Timestamp, kind};
use berth_volumes::VolumeStore;
use serde_json::json;

use super::check::counted;
use super::freeze::Frozen;
use super::note::Note;
use crate::containers::record;
use crate::data_root;
use crate::engine::{Engine, SCHEMAS};
use crate::error::EngineError;
use crate::images::{MessageSender, Messages, messages};

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// A directory that does not exist or is empty, outside the data root.
    pub dest: PathBuf,
    /// With the content of volumes.
    pub volumes: bool,
    /// Containers are frozen while what they write is copied.
    pub pause: bool,
}

impl Engine {
    /// Copies the data root. Messages: how many containers, volumes and layers are done
    /// (`progressDetail`), and at the end what was copied (`aux` with `Backup`). A client that leaves
    /// ends it.
    pub fn backup_storage(&self, request: BackupRequest) -> Result<Messages, EngineError> {
        let running = self.upkeep().begin()?;
        transfer::check(self.layers().driver().name())?;
        check_destination(&request.dest, self.whole_data_root())?;
        let (sender, receiver) = messages();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let _running = running;
            let partial = partial_of(&request.dest);
            let job = Job { engine: &engine, request: &request, partial, sender: &sender };
            match job.run() {
                Ok(copied) => {
                    sender.send(copied.message());
                }
                Err(error) => sender.fail(&error),
            }
        });
        Ok(receiver)
    }
}

impl Engine {
    /// The data root that the daemon was told, with those of other ids in it.
    fn whole_data_root(&self) -> &Path {
        let own = self.config().data_root.as_path();
        own.parent().filter(|_| self.ids().root() != Owner::ROOT).unwrap_or(own)
    }
}

/// What the copy is made as.
fn partial_of(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn check_destination(dest: &Path, data_root: &Path) -> Result<(), EngineError> {
    let is_clean = dest.file_name().is_some()
        && dest.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !dest.is_absolute() || !is_clean {
        return Err(EngineError::BackupRelative { path: dest.display().to_string() });
    }
    let path = || dest.to_owned();
    let parent = dest.parent().unwrap_or(dest);
    let real = fs::canonicalize(parent).map_err(EngineError::io("find", parent))?;
    let root = fs::canonicalize(data_root).map_err(EngineError::io("find", data_root))?;
    let name = dest.file_name().unwrap_or_default();
    if real.join(name).starts_with(&root) {
        return Err(EngineError::BackupInside { path: path() });
    }
    match fs::read_dir(dest) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(EngineError::BackupNotEmpty { path: path() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::io("read", dest)(error)),
    }
    let partial = partial_of(dest);
    if partial.try_exists().map_err(EngineError::io("look at", &partial))? {
        return Err(EngineError::BackupLeft { path: partial });
    }
    Ok(())
}

/// What was copied.
#[derive(Debug, Default)]
struct Copied {
    driver: String,
    path: PathBuf,
    layers: u64,
    containers: u64,
    volumes: u64,
    bytes: u64,
}

impl Copied {
    fn message(&self) -> ProgressMessage {
        let Self { driver, path, layers, containers, volumes, bytes } = self;
        let aux = json!({ "Backup": {
            "Driver": driver, "Path": path, "Layers": layers, "Containers": containers,
            "Volumes": volumes, "Bytes": bytes,
        }});
        ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
    }
}

/// The stores over the copied records.
struct Copy {
    db: Arc<Db>,
    layers: Arc<LayerStore>,
    images: ImageStore,
    volumes: VolumeStore,
}

impl Copy {
    fn forget_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.db.write(|tx| {
            record::delete(tx, id)?;
            self.volumes.remove_refs(tx, id.as_str())?;
            // Its bytes were never copied.
            self.layers.remove_rw(tx, id)?;
            Ok(())
        })
    }
}

struct Job<'a> {
    engine: &'a Engine,
    request: &'a BackupRequest,
    partial: PathBuf,
    sender: &'a MessageSender,
}

impl Job<'_> {
    fn run(&self) -> Result<Copied, EngineError> {
        let partial = &self.partial;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(partial)
            .map_err(EngineError::io("create", partial))?;
        steps::reached("backup.begun");
        let made = self.fill();
        let renamed = made.and_then(|copied| {
            let dest = &self.request.dest;
            fs::rename(partial, dest).map_err(EngineError::io("rename to", dest))?;
            let parent = dest.parent().unwrap_or(dest);
            berth_fs::atomic::sync_dir(parent).map_err(EngineError::io("sync", parent))?;
            steps::reached("backup.renamed");
            Ok(copied)
        });
        if renamed.is_err() {
            self.discard();
        }
        renamed
    }

    /// Deletes what is there of a copy that failed.
    fn discard(&self) {
        let driver = self.engine.layers().driver().name();
        let gone = transfer::discard(driver, &self.partial)
            .map_err(|error| kind::chain(&error))
            .and_then(|()| fs::remove_dir_all(&self.partial).map_err(|error| error.to_string()));
        if let Err(error) = gone {
            let path = self.partial.display();
            tracing::warn!(error, %path, "what a failed backup left cannot be deleted");
        }
    }

    fn fill(&self) -> Result<Copied, EngineError> {
        let engine = self.engine;
        let driver = engine.layers().driver().name();
        let io = |action| EngineError::io(action, &self.partial);
        data_root::lay_out(&self.partial).map_err(io("fill"))?;
        transfer::make_home(driver, &self.partial)?;
        let db = self.partial.join("berth.db");
        let hold = engine.db().snapshot(&db, |tx| engine.layers().hold_all(tx))?;
        let _released = Release { engine, hold };
        steps::reached("backup.snapshot");
        let copied = self.copy_all()?;
        steps::reached("backup.copied");
        let owner = engine.ids().root();
        let note = Note::new(driver, &engine.config().data_root, owner, self.request.volumes);
        note.write(&self.partial)?;
        berth_fs::atomic::write_with(
            &self.partial.join("engine-id"),
            engine.id().as_bytes(),
            0o600,
            berth_fs::atomic::Durability::Unsynced,
        )
        .map_err(io("fill"))?;
        data_root::write_marker(&self.partial, owner).map_err(io("fill"))?;
        berth_sys::fsinfo::sync_fs_of(&self.partial).map_err(io("sync"))?;
        steps::reached("backup.synced");
        Ok(copied)
    }

    fn copy_all(&self) -> Result<Copied, EngineError> {
        let driver = self.engine.layers().driver().name();
        let copy = self.open_copy()?;
        let home = self.partial.join(driver);
        let open = |path: &Path| Root::open(path).map_err(EngineError::io("open", path));
        let (target, root) = (open(&home)?, open(&self.partial)?);
        let from = &self.engine.config().data_root;
        let mut layers = Transfer::open(driver, from, &self.partial, &target)?;
        let mut files = Mirror::new(&root);
        let mut copied = Copied {
            driver: driver.to_owned(),
            path: self.request.dest.clone(),
            ..Copied::default()
        };
        let mut containers = copy.layers.list_rw()?;
        containers.retain(|rw| rw.driver == driver);
        let volumes = self.volume_names(&copy)?;
        let total = (containers.len() + volumes.len() + copy.layers.list()?.len()) as u64;
        let mut done = 0;
        let mut step = || {
            done += 1;
            self.sender.try_send(counted("Copying", done, total));
            if self.sender.is_closed() { Err(EngineError::BackupEnded) } else { Ok(()) }
        };
        for rw in &containers {
            match self.container(rw, &mut layers, &mut files)? {
                Some(bytes) => {
                    copied.containers += 1;
                    copied.bytes += bytes;
                }
                None => copy.forget_container(&rw.container)?,
            }
            step()?;
        }
        for name in &volumes {
            match self.volume(name, &mut files)? {
                Some(bytes) => {
                    copied.volumes += 1;
                    copied.bytes += bytes;
                }
                None => copy.db.write(|tx| copy.volumes.forget(tx, name))?,
            }
            step()?;
        }
        copy.db.write(|tx| copy.layers.settle_copy(tx))?;
        for layer in copy.layers.list()? {
            let below = match &layer.parent {
                Some(parent) => copy.layers.get(parent)?.map(|below| below.layer),
                None => None,
            };
            copied.bytes += layers.layer(&layer.layer, below.as_ref())?;
            let place = Path::new("layers").join(layer.chain.hex());
            let from = self.engine.layers().files_of(&layer.chain);
            copied.bytes += mirror(&mut files, &from, &self.partial, &place)?.unwrap_or(0);
            copied.layers += 1;
            step()?;
        }
        copy.db.checkpoint()?;
        Ok(copied)
    }

    /// Opens the copied records, without what is of no use in a copy.
    fn open_copy(&self) -> Result<Copy, EngineError> {
        let engine = self.engine;
        let db = Arc::new(Db::open(&self.partial.join("berth.db"), SCHEMAS)?);
        let driver = engine.layers().shared_driver();
        let layers = Arc::new(LayerStore::open(&self.partial, driver, Arc::clone(&db))?);
        let images = ImageStore::open(Arc::clone(&db), Arc::clone(&layers));
        let volumes = VolumeStore::open(&self.partial.join("volumes"), Arc::clone(&db))?;
        let copy = Copy { db, layers, images, volumes };
        let name = engine.layers().driver().name();
        copy.db.write(|tx| {
            copy.images.forget_elsewhere(tx)?;
            for id in record::forget_elsewhere(tx, name)? {
                copy.volumes.remove_refs(tx, id.as_str())?;
            }
            Ok::<_, EngineError>(())
        })?;
        Ok(copy)
    }

    /// Copies a container's layer and its directory; nothing when it is gone.
    fn container(
        &self,
        rw: &RwLayer,
        layers: &mut Transfer<'_>,
        files: &mut Mirror<'_>,
    ) -> Result<Option<u64>, EngineError> {
        let Some(container) = self.engine.registry().by_id(&rw.container) else { return Ok(None) };
        let _alone = container.operation.clone().blocking_lock_owned();
        let is_there = |id: &ContainerId| self.engine.layers().rw(id);
        if is_there(&rw.container)?.is_none() {
            return Ok(None);
        }
        let mut bytes = self.image_below(rw, layers)?;
        let _frozen = self.freeze([rw.container.clone()]);
        let parent = match &rw.parent {
            Some(parent) => self.engine.layers().get(parent)?.map(|below| below.layer),
            None => None,
        };
        let init = rw.mount.init();
        bytes += layers.layer(&init, parent.as_ref())?;
        bytes += layers.layer(&rw.mount, Some(&init))?;
        let from = self.engine.container_dir(&rw.container);
        let place = Path::new("containers").join(rw.container.as_str());
        bytes += mirror(files, &from, &self.partial, &place)?.unwrap_or(0);
        Ok(Some(bytes))
    }

    /// Copies the layers that a container stands on, where that must come first.
    fn image_below(&self, rw: &RwLayer, layers: &mut Transfer<'_>) -> Result<u64, EngineError> {
        let mut below = Vec::new();
        let mut next = rw.parent.clone().filter(|_| layers.is_ordered());
        while let Some(chain) = next {
            let Some(layer) = self.engine.layers().get(&chain)? else { break };
            next = layer.parent;
            below.push(layer.layer);
        }
        below.reverse();
        let mut bytes = 0;
        for (at, layer) in below.iter().enumerate() {
            let parent = at.checked_sub(1).and_then(|at| below.get(at));
            bytes += layers.layer(layer, parent)?;
        }
        Ok(bytes)
    }

    /// Those on record, and those that are directories without a record.
    fn volume_names(&self, copy: &Copy) -> Result<BTreeSet<String>, EngineError> {
        let all = berth_volumes::VolumeFilter::default();
        let mut names = BTreeSet::new();
        for store in [&copy.volumes, &**self.engine.volumes()] {
            names.extend(store.list(&all)?.into_iter().map(|volume| volume.name));
        }
        Ok(names)
    }

    /// Copies a volume; nothing when it is gone.
    fn volume(&self, name: &str, files: &mut Mirror<'_>) -> Result<Option<u64>, EngineError> {
        let place = Path::new("volumes").join(name);
        let users = if self.request.volumes { self.users(name)? } else { Vec::new() };
        let _frozen = self.freeze(users);
        let copied = self.engine.volumes().alone_with(name, |from| {
            if self.request.volumes {
                return mirror(files, from, &self.partial, &place);
            }
            empty_volume(from, &self.partial.join(&place)).map(|()| Some(0))
        })?;
        copied.unwrap_or(Ok(None))
    }

    /// The containers that have the volume.
    fn users(&self, volume: &str) -> Result<Vec<ContainerId>, EngineError> {
        let refs = self.engine.volumes().refs()?;
        let own = refs.into_iter().filter(|reference| reference.volume == volume);
        let mut users: Vec<ContainerId> =
            own.filter_map(|reference| ContainerId::parse(&reference.container).ok()).collect();
        users.dedup();
        Ok(users)
    }

    fn freeze(&self, ids: impl IntoIterator<Item = ContainerId>) -> Option<Frozen<'_>> {
        self.request.pause.then(|| Frozen::new(self.engine, ids))
    }
}

/// Lets go of the layers that were held.
struct Release<'a> {
    engine: &'a Engine,
    hold: Hold,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.engine.layers().end_hold(&self.hold) {
            // The next start ends it.
            tracing::warn!(error = kind::chain(&error), "layers stay held");
        }
        self.engine.reap_later();
    }
}

/// Copies a directory to `place` below `to`; nothing when there is none.
pub(super) fn mirror(
    files: &mut Mirror<'_>,
    from: &Path,
    to: &Path,
    place: &Path,
) -> Result<Option<u64>, EngineError> {
    let source = match Root::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(EngineError::io("open", from))?,
    };
    let target = to.join(place);
    match fs::DirBuilder::new().mode(0o700).create(&target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(EngineError::io("create", &target)(error));
        }
        _ => {}
    }
    let copied = files.tree(&source, place);
    copied.map(Some).map_err(|source| EngineError::Copy { path: from.to_owned(), source })
}

/// A volume without what is in it.
fn empty_volume(from: &Path, to: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::MetadataExt as _;
    for name in ["", "_data"] {
        let (from, to) = (from.join(name), to.join(name));
        let meta = fs::symlink_metadata(&from).map_err(EngineError::io("look at", &from))?;
        fs::create_dir(&to).map_err(EngineError::io("create", &to))?;
        std::os::unix::fs::chown(&to, Some(meta.uid()), Some(meta.gid()))
            .and_then(|()| fs::set_permissions(&to, meta.permissions()))
            .map_err(EngineError::io("create", &to))?;
    }
    let (from, to) = (from.join("opts.json"), to.join("opts.json"));
    match fs::copy(&from, &to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::io("copy", &from)(error))
        }
        _ => Ok(()),
    }
}

/// The moment, for the note.
pub(super) fn now() -> String {
    Timestamp::now().to_string()
}
