//! Containers' layers.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berth_db::Tx;
use berth_fs::changes::{self, Base, Change};
use berth_fs::pack;
use berth_fs::root::Root;
use berth_storage::{Access, CreateOptions, Mounted, NativeDiff, Prepared, StorageError};
use berth_types::{ChainId, ContainerId, LayerId};

use crate::activations::{Active, Reading};
use crate::files::io_at;
use crate::{
    Applied, Ingest, LayerError, LayerStore, NewLayer, Parent, Removed, RwLayer, init, record,
};

/// How the layer of a container can be reached by those who only read it.
///
/// It matters to drivers that show a layer by mounting it whole; where a layer's own changes are a
/// directory, they are read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// It does not run, and the caller sees to it that nobody else prepares its layer meanwhile.
    AtRest,
    /// It runs, and its watcher has its root here.
    Running(&'a Path),
}

impl LayerStore {
    /// Whether the layer of a container that does not run must be left to one caller at a time,
    /// who has it mounted: a start, or somebody who reads it [at rest](Reach::AtRest).
    pub fn reads_by_mounting(&self) -> bool {
        self.driver().native().is_none_or(NativeDiff::may_lack_changes)
    }

    /// The driver's directories of changes, if that of this layer says all of them.
    pub(crate) fn says_changes(&self, id: &LayerId) -> Result<Option<&dyn NativeDiff>, LayerError> {
        let Some(native) = self.driver().native() else { return Ok(None) };
        Ok((!native.lacks_changes(id)?).then_some(native))
    }

    /// Records a container's layer on top of the image's. No directory is made yet.
    ///
    /// Options that the driver refuses are refused by [`ensure_rw`](Self::ensure_rw).
    pub fn create_rw(
        &self,
        tx: &Tx<'_>,
        container: &ContainerId,
        parent: Option<&ChainId>,
        options: &CreateOptions,
    ) -> Result<RwLayer, LayerError> {
        if !options.mount_label.is_empty() {
            // Refused here because it is not recorded.
            return Err(StorageError::MountLabel.into());
        }
        let driver = self.driver().name();
        if let Some(chain) = parent
            && record::get(tx, driver, chain)?.is_none()
        {
            return Err(LayerError::Unknown { chain: chain.clone() });
        }
        let new = RwLayer {
            container: container.clone(),
            driver: driver.to_owned(),
            mount: LayerId::random(),
            parent: parent.cloned(),
            size: Some(0),
            storage_opt: options.storage_opt.clone(),
        };
        record::insert_rw(tx, &new)?;
        Ok(new)
    }

    /// Makes the directories of a recorded layer: the init layer with its content, and the layer
    /// itself. Idempotent; what the container wrote is never touched.
    pub fn ensure_rw(&self, container: &ContainerId) -> Result<(), LayerError> {
        let rw = self.own_rw(container)?;
        self.ensure(&rw).map(drop)
    }

    /// Whether anything had to be made.
    pub(crate) fn ensure(&self, rw: &RwLayer) -> Result<bool, LayerError> {
        let parent = match &rw.parent {
            Some(chain) => Some(self.inner().known(chain)?.layer),
            None => None,
        };
        let options = CreateOptions {
            writable: true,
            storage_opt: rw.storage_opt.clone(),
            mount_label: String::new(),
        };
        let template = match &parent {
            Some(image) => self.template(image)?,
            None => None,
        };
        let init_layer = rw.mount.init();
        let new_init = self.inner().activations.alone(&init_layer, || {
            let below = template.as_ref().or(parent.as_ref());
            let new = self.create_or_mend(&init_layer, below, &options)?;
            if new && template.is_some() {
                self.driver().commit(&init_layer)?;
            } else {
                self.fill_init(&init_layer, || Ok(()))?;
            }
            Ok::<_, LayerError>(new)
        })?;
        let new_mount = self.create_or_mend(&rw.mount, Some(&init_layer), &options)?;
        Ok(new_init || new_mount)
    }

    /// The record.
    pub fn rw(&self, container: &ContainerId) -> Result<Option<RwLayer>, LayerError> {
        self.inner().db.read(|conn| Ok(record::rw(conn, container)?))
    }

    /// Every container's layer, on whatever driver.
    pub fn list_rw(&self) -> Result<Vec<RwLayer>, LayerError> {
        self.inner().db.read(|conn| Ok(record::list_rw(conn)?))
    }

    /// How to mount the container's file system. One caller at a time, until it has mounted it or
    /// [released](Self::release_rw) it; nobody may read it at rest meanwhile.
    pub fn prepare_rw(
        &self,
        container: &ContainerId,
        access: Access,
    ) -> Result<Prepared, LayerError> {
        Ok(self.driver().prepare(&self.own_rw(container)?.mount, access)?)
    }

    /// Undoes [`prepare_rw`](Self::prepare_rw); idempotent.
    pub fn release_rw(&self, container: &ContainerId) -> Result<(), LayerError> {
        Ok(self.driver().release(&self.own_rw(container)?.mount)?)
    }

    /// Removes the record, and those of the image layers that only this container kept. Give the
    /// result to [`purge`](Self::purge) after the commit. Unknown containers are fine.
    pub fn remove_rw(
        &self,
        tx: &Tx<'_>,
        container: &ContainerId,
    ) -> Result<Vec<Removed>, LayerError> {
        let Some(rw) = record::rw(tx, container)? else { return Ok(Vec::new()) };
        record::delete_rw(tx, container)?;
        let mut removed = Vec::new();
        for layer in [rw.mount.clone(), rw.mount.init()] {
            record::intend_removal(tx, &rw.driver, &layer)?;
            if rw.driver == self.driver().name() {
                removed.push(Removed { chain: None, layer });
            }
        }
        if let Some(chain) = &rw.parent {
            removed.extend(record::collect(tx, self.driver(), chain)?);
        }
        Ok(removed)
    }

    /// The `GraphDriver.Data` of a container.
    pub fn rw_metadata(
        &self,
        container: &ContainerId,
    ) -> Result<Option<BTreeMap<String, String>>, LayerError> {
        Ok(self.driver().metadata(&self.own_rw(container)?.mount)?)
    }

    /// What a container that does not run wrote, in bytes (`SizeRw`): the recorded size, else
    /// measured [at rest](Reach::AtRest).
    pub fn rw_size(&self, container: &ContainerId) -> Result<u64, LayerError> {
        let rw = self.own_rw(container)?;
        rw.size.map_or_else(|| self.measure(&rw, Reach::AtRest), Ok)
    }

    /// Records the size of a layer that cannot change until the next start; `None` forgets it
    /// and belongs before each start and each write from outside.
    ///
    /// A layer that was never given `None` counts as never written: when a power cut takes it,
    /// [`recover`](Self::recover) makes it anew.
    pub fn set_rw_size(
        &self,
        tx: &Tx<'_>,
        container: &ContainerId,
        size: Option<u64>,
    ) -> Result<(), LayerError> {
        if record::set_rw_size(tx, container, size)? {
            return Ok(());
        }
        Err(LayerError::UnknownContainer { container: container.clone() })
    }

    /// Measures what the container wrote by walking it.
    pub fn measure_rw(&self, container: &ContainerId, reach: Reach<'_>) -> Result<u64, LayerError> {
        self.measure(&self.own_rw(container)?, reach)
    }

    /// What the container changed, parents before children.
    pub fn changes(
        &self,
        container: &ContainerId,
        reach: Reach<'_>,
    ) -> Result<Vec<Change>, LayerError> {
        let rw = self.own_rw(container)?;
        let Some(native) = self.says_changes(&rw.mount)? else {
            let compare = |old: Base<'_>, new: &Root| Ok(changes::between(Some(old), new)?);
            return self.with_trees(&rw, reach, compare);
        };
        let lowers = native.shown_lower_dirs(&rw.mount)?;
        let lowers = lowers.iter().map(open_root).collect::<Result<Vec<_>, _>>()?;
        let upper = open_root(native.diff_dir(&rw.mount))?;
        Ok(changes::of_upper(&upper, &lowers, native.marks())?)
    }

    /// Runs `work` on what a container that does not run has changed, for drivers that keep that as
    /// a tree of its own: what is taken away there leaves no trace.
    pub fn with_changes<T>(
        &self,
        container: &ContainerId,
        work: impl FnOnce(&Root) -> T,
    ) -> Result<Option<T>, LayerError> {
        let rw = self.own_rw(container)?;
        let Some(native) = self.says_changes(&rw.mount)? else { return Ok(None) };
        Ok(Some(work(&open_root(native.diff_dir(&rw.mount))?)))
    }

    /// Writes the container's changes as a layer's tar.
    pub fn diff_tar<W: Write + Send>(
        &self,
        container: &ContainerId,
        reach: Reach<'_>,
        out: W,
    ) -> Result<(), LayerError> {
        self.pack(&self.own_rw(container)?, reach, out)
    }

    /// Makes a new image layer of the container's changes. It is applied already: go on with
    /// [`Ingest::finish`]. A container without changes gives
    /// [`DiffId::empty`](berth_types::DiffId::empty); such an ingest may just be dropped.
    pub fn commit_rw(
        &self,
        op: &'static str,
        container: &ContainerId,
        reach: Reach<'_>,
    ) -> Result<(Ingest, Applied), LayerError> {
        let rw = self.own_rw(container)?;
        self.commit_packed(op, rw.parent.clone(), |out| self.pack(&rw, reach, out))
    }

    /// Makes a new image layer on `parent` of what `pack` writes.
    pub(crate) fn commit_packed(
        &self,
        op: &'static str,
        parent: Option<ChainId>,
        pack: impl FnOnce(io::BufWriter<io::PipeWriter>) -> Result<(), LayerError> + Send,
    ) -> Result<(Ingest, Applied), LayerError> {
        let parent = parent.map_or(Parent::None, Parent::Existing);
        let ingest = self.begin(op, vec![NewLayer { parent, expected: None }])?;
        let (reader, writer) = io::pipe().map_err(io_at("open", "a pipe"))?;
        let (applied, packed) = std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(io::BufWriter::with_capacity(1 << 16, writer)));
            let applied = ingest.apply(0, reader);
            let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (applied, packed)
        });
        // A failed unpacking breaks the pipe, so its error is the cause; a failed packing leaves
        // a tar that may look complete.
        let applied = applied?;
        packed?;
        Ok((ingest, applied))
    }

    /// The record of a container whose layer is on this driver.
    fn own_rw(&self, container: &ContainerId) -> Result<RwLayer, LayerError> {
        let Some(rw) = self.rw(container)? else {
            return Err(LayerError::UnknownContainer { container: container.clone() });
        };
        if rw.driver != self.driver().name() {
            return Err(LayerError::OtherDriver { container: rw.container, driver: rw.driver });
        }
        Ok(rw)
    }

    /// Gives whether the layer is new.
    pub(crate) fn create_or_mend(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<bool, LayerError> {
        match self.driver().create(id, parent, options) {
            Ok(()) => Ok(true),
            Err(StorageError::LayerExists { .. }) => {
                if let Some(native) = self.driver().native() {
                    native.stand_on(id, parent)?;
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fills an init layer and freezes it; `before` that, something may be done.
    pub(crate) fn fill_init(
        &self,
        id: &LayerId,
        before: impl FnOnce() -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let prepared = match self.driver().prepare(id, Access::Write) {
            // It was filled before.
            Err(StorageError::ReadOnly { .. }) => return Ok(()),
            other => other?,
        };
        let owner = self.inner().settings.ids.root();
        if let Some(native) = self.driver().native() {
            let lowers = native.shown_lower_dirs(id)?;
            init::fill_upper(&native.diff_dir(id), &lowers, native.marks(), owner)?;
        } else {
            let mounted = Mounted::new(prepared)?;
            init::fill_tree(mounted.root(), owner)?;
        }
        before()?;
        Ok(self.driver().commit(id)?)
    }

    fn measure(&self, rw: &RwLayer, reach: Reach<'_>) -> Result<u64, LayerError> {
        match self.driver().native() {
            Some(native) => Ok(changes::tree_size(&open_root(native.diff_dir(&rw.mount))?)?),
            None => self.with_trees(rw, reach, |old, new| {
                let changed = changes::between(Some(old), new)?;
                Ok(changes::changed_size(new, &changed)?)
            }),
        }
    }

    fn pack<W: Write + Send>(
        &self,
        rw: &RwLayer,
        reach: Reach<'_>,
        out: W,
    ) -> Result<(), LayerError> {
        let ids = &self.inner().settings.ids;
        match self.says_changes(&rw.mount)? {
            Some(native) => {
                let upper = open_root(native.diff_dir(&rw.mount))?;
                pack::upper_dir(&upper, native.marks(), ids, out)?;
                Ok(())
            }
            None => self.with_trees(rw, reach, |old, new| {
                let changed = changes::between(Some(old), new)?;
                pack::changes(new, &changed, ids, out)?;
                Ok(())
            }),
        }
    }

    /// Runs `work` on the whole trees of the init layer and of the container's layer. That of a
    /// container that runs is read through the mount of its run.
    fn with_trees<T>(
        &self,
        rw: &RwLayer,
        reach: Reach<'_>,
        work: impl FnOnce(Base<'_>, &Root) -> Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        let store = self.inner();
        let image = rw.parent.as_ref().map(|chain| store.known(chain));
        // What is not known of an image it may have.
        let capabilities = image.is_some_and(|image| image.map_or(true, |it| it.capabilities));
        let work = |old: &Root, new: &Root| work(Base { root: old, capabilities }, new);
        let init = Active::hold(store, &rw.mount.init())?;
        match reach {
            Reach::AtRest => {
                let own = Active::hold(store, &rw.mount)?;
                let [init, own] = Reading::open(store, [init, own])?;
                work(&init.root, &own.root)
            }
            Reach::Running(path) => {
                let own = if init.is_mounted_to_be_read() {
                    mounted_root(path, rw)?
                } else {
                    open_root(path)?
                };
                let [init] = Reading::open(store, [init])?;
                work(&init.root, &own)
            }
        }
    }
}

/// What is mounted at `path`; not the mount point, once the run has ended.
fn mounted_root(path: &Path, rw: &RwLayer) -> Result<Root, LayerError> {
    let ended = || LayerError::RunEnded { container: rw.container.clone() };
    let root = match Root::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ended()),
        other => other.map_err(io_at("open", path))?,
    };
    let is_mounted = root.is_mount().map_err(io_at("look at", path))?;
    if is_mounted { Ok(root) } else { Err(ended()) }
}

pub(crate) fn open_root(path: impl AsRef<Path>) -> Result<Root, LayerError> {
    let path: PathBuf = path.as_ref().to_owned();
    Root::open(&path).map_err(io_at("open", path))
}
