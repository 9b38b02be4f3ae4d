//! A data root, tars to fill it with, and drivers that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use berth_db::Db;
use berth_fs::reserve;
use berth_layers::{
    Ingest, LayerError, LayerStore, NewLayer, Parent, Reach, RecoverReport, SCHEMA, Settings,
};
use berth_storage::{
    Access, CreateOptions, LayerState, Mapping, Mounted, NativeDiff, Prepared, Selection,
    StorageDriver, StorageError, Upkeep, twin,
};
use berth_types::{ChainId, ContainerId, DiffId, Digest, IdMaps, LayerId};
use testkit::LoopFs;
use testkit::zpool::Zpool;

/// Each with the file system that it needs: what `/var/tmp` is on, or one on a loop device.
const DRIVERS: [Driver; 7] = [
    ("overlay2", None, &[]),
    ("overlay2", None, &["overlay2.index=on"]),
    ("vfs", None, &[]),
    ("btrfs", Some("btrfs"), &[]),
    ("overlay", Some("ext4"), &[]),
    ("fuse-overlayfs", None, &[]),
    (twin::NAME, None, &[]),
];

/// Says for which driver alone the cases are run: for one that few kernels have.
pub(crate) const ONLY: &str = "BERTH_LAYERS_ON";
const ZFS: &str = "zfs";

type Driver = (&'static str, Option<&'static str>, &'static [&'static str]);

fn drivers() -> Vec<Driver> {
    match std::env::var(ONLY).as_deref() {
        Ok("aufs") => vec![("aufs", Some("ext4"), &[])],
        Ok(ZFS) => vec![(ZFS, Some(ZFS), &[])],
        Ok(other) => panic!("{ONLY} names {other}"),
        Err(_) => DRIVERS.to_vec(),
    }
}

/// What a data root lies on, where that is a file system of its own.
enum Fs {
    Loop(LoopFs),
    Pool(Zpool),
}

impl Fs {
    fn or_skip(test: &str, kind: &str) -> Option<Self> {
        if kind == ZFS {
            return Zpool::or_skip(test).map(Self::Pool);
        }
        LoopFs::or_skip(test, kind).map(Self::Loop)
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Loop(fs) => fs.path(),
            Self::Pool(pool) => pool.path().to_owned(),
        }
    }
}

/// A data root that goes away with the test.
pub(crate) struct Root {
    dir: tempfile::TempDir,
    driver: &'static str,
    options: &'static [&'static str],
    /// After `dir`, which lies on it.
    fs: Option<Fs>,
}

/// A store and what is below it.
pub(crate) struct Open {
    pub(crate) store: LayerStore,
    pub(crate) db: Arc<Db>,
}

/// Runs `case` on a data root of each driver; a named skip where that cannot be.
pub(crate) fn on_each_driver(test: &str, case: impl Fn(&Root)) {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return;
    }
    for (driver, kind, options) in drivers() {
        let fs = match kind {
            None => None,
            Some(kind) => match Fs::or_skip(test, kind) {
                None => continue,
                some => some,
            },
        };
        if let Some(root) = Root::or_skip(test, driver, options, fs) {
            case(&root);
        }
    }
}

impl Root {
    fn or_skip(
        test: &str,
        driver: &'static str,
        options: &'static [&'static str],
        fs: Option<Fs>,
    ) -> Option<Self> {
        let below = fs.as_ref().map_or_else(|| "/var/tmp".into(), Fs::path);
        let root = Self { dir: tempfile::tempdir_in(&below).unwrap(), driver, options, fs };
        match root.try_driver() {
            Ok(_) => Some(root),
            Err(error) if error.is_not_supported() => {
                testkit::skip(test, &format!("{driver} over {}", below.display()));
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A data root on a file system of its own; a named skip where that cannot be.
    pub(crate) fn on_fs(test: &str, driver: &'static str, kind: &str) -> Option<Self> {
        Self::or_skip(test, driver, &[], Some(Fs::or_skip(test, kind)?))
    }

    pub(crate) fn fs(&self) -> &LoopFs {
        match &self.fs {
            Some(Fs::Loop(fs)) => fs,
            _ => panic!("a file system of its own on a loop device"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn driver_name(&self) -> &'static str {
        self.driver
    }

    /// Where the driver's layers are.
    pub(crate) fn home(&self) -> PathBuf {
        let home = self.path().join(self.driver);
        match self.driver {
            "vfs" => home.join("dir"),
            "aufs" => home.join("diff"),
            "btrfs" => home.join("subvolumes"),
            twin::NAME => home.join("store"),
            _ => home,
        }
    }

    /// The names of what is there of layers.
    fn layers(&self) -> BTreeSet<String> {
        let Some(Fs::Pool(pool)) = &self.fs else { return names(&self.home()) };
        let list = pool.zfs(&["list", "-H", "-r", "-o", "name"]);
        let names = list.lines().filter_map(|name| name.split_once('/'));
        names.map(|(_, name)| name.to_owned()).collect()
    }

    /// Whether hard links to files of the image stay together when one is written.
    pub(crate) fn keeps_links(&self) -> bool {
        let copies_up = ["overlay2", "overlay", "fuse-overlayfs", "aufs"].contains(&self.driver);
        let is_told = self.driver == "aufs" && testkit::has_program("auplink");
        !copies_up || self.is_indexed() || is_told
    }

    /// Whether containers' layers have an index.
    pub(crate) fn is_indexed(&self) -> bool {
        self.options.contains(&"overlay2.index=on")
    }

    /// Whether `docker inspect` shows where layers are.
    pub(crate) fn has_metadata(&self) -> bool {
        !["vfs", "btrfs", "aufs", twin::NAME].contains(&self.driver)
    }

    /// Whether layers are made before what they stand on is filled.
    pub(crate) fn is_concurrent(&self) -> bool {
        self.try_driver().unwrap().native().is_some()
    }

    /// The layers that are activated, where drivers activate.
    pub(crate) fn active(&self) -> BTreeSet<String> {
        names(&self.path().join(twin::NAME).join("active"))
    }

    /// The file that says what a layer stands on.
    pub(crate) fn links_of(&self, layer: &LayerId) -> PathBuf {
        match self.driver {
            "aufs" => self.path().join("aufs/layers").join(layer.as_str()),
            _ => self.home().join(layer.as_str()).join("lower"),
        }
    }

    /// Where a layer's files are, made writable for somebody who damages them.
    pub(crate) fn thaw(&self, layer: &LayerId) -> PathBuf {
        let path = self.home().join(layer.as_str());
        match self.driver {
            "btrfs" => {
                let top = fs::File::open(&path).unwrap();
                berth_sys::btrfs::set_read_only(top, false).unwrap();
                path
            }
            "vfs" | "aufs" => path,
            "overlay" => path.join("root"),
            twin::NAME => path.join("data"),
            _ => path.join("diff"),
        }
    }

    fn try_driver(&self) -> Result<Arc<dyn StorageDriver>, StorageError> {
        self.try_driver_for(&IdMaps::default())
    }

    fn try_driver_for(&self, ids: &IdMaps) -> Result<Arc<dyn StorageDriver>, StorageError> {
        let options: Vec<_> = self.options.iter().map(|&option| option.to_owned()).collect();
        let selection = Selection {
            root: self.path(),
            name: Some(self.driver),
            environment: None,
            options: &options,
            owner: ids.root(),
            mapping: Some(Mapping { ids, dir: &self.path().join("run") }),
        };
        berth_storage::select::open(&selection).map_err(|error| error.source)
    }

    /// Opens the store for containers whose ids are remapped.
    pub(crate) fn open_for(&self, ids: &IdMaps) -> Open {
        let db = Arc::new(Db::open(&self.path().join("berth.db"), &[&SCHEMA]).unwrap());
        let driver = self.try_driver_for(ids).unwrap();
        let settings = Settings { ids: ids.clone(), ..Settings::default() };
        let store = LayerStore::open_with(self.path(), driver, Arc::clone(&db), settings).unwrap();
        Open { store, db }
    }

    /// Opens the store for images of up to so many layers.
    pub(crate) fn open_for_depth(&self, max_depth: u32) -> Open {
        let db = Arc::new(Db::open(&self.path().join("berth.db"), &[&SCHEMA]).unwrap());
        let driver = self.try_driver().unwrap();
        let settings = Settings { max_depth, ..Settings::default() };
        let store = LayerStore::open_with(self.path(), driver, Arc::clone(&db), settings).unwrap();
        Open { store, db }
    }

    /// Opens the store without recovery.
    pub(crate) fn open(&self) -> Open {
        self.open_with(|driver| driver)
    }

    pub(crate) fn open_with(
        &self,
        wrap: impl FnOnce(Arc<dyn StorageDriver>) -> Arc<dyn StorageDriver>,
    ) -> Open {
        let db = Arc::new(Db::open(&self.path().join("berth.db"), &[&SCHEMA]).unwrap());
        let driver = wrap(self.try_driver().unwrap());
        let store = LayerStore::open(self.path(), driver, Arc::clone(&db)).unwrap();
        Open { store, db }
    }

    /// Opens as the daemon does after a stop, and checks that all is in order then.
    pub(crate) fn recover(&self) -> (Open, RecoverReport) {
        let open = self.open();
        let report = open.store.recover(&|_| false).unwrap();
        open.store.reap().unwrap();
        let again = open.store.recover(&|_| false).unwrap();
        let mut lasting = RecoverReport::default();
        lasting.missing.clone_from(&report.missing);
        lasting.without_tar.clone_from(&report.without_tar);
        lasting.lost.clone_from(&report.lost);
        assert_eq!(again, lasting, "the second recovery finds nothing to do");
        if report.missing.is_empty() && report.lost.is_empty() {
            self.check(&open.store);
        }
        (open, report)
    }

    /// Records and bytes agree, and every layer's tar comes back.
    pub(crate) fn check(&self, store: &LayerStore) {
        let mut known = BTreeSet::new();
        let mut chains = BTreeSet::new();
        for layer in store.list().unwrap() {
            let mut tar = Vec::new();
            store.tar_stream(&layer.chain).unwrap().read_to_end(&mut tar).unwrap();
            assert_eq!(DiffId::from(Digest::of(&tar)), layer.diff);
            known.insert(layer.layer.to_string());
            chains.insert(layer.chain.hex().to_owned());
        }
        for rw in store.list_rw().unwrap() {
            known.extend([rw.mount.to_string(), rw.mount.init().to_string()]);
        }
        let mut home = self.layers();
        for layer in store.list().unwrap() {
            // What its containers begin as.
            home.remove(layer.layer.init().as_str());
        }
        home.remove("l");
        home.remove(reserve::NAME);
        home.remove(".berth-mapped");
        assert_eq!(home, known, "layers of {}", self.driver);
        let mut files = names(&self.path().join("layers"));
        files.remove(reserve::NAME);
        assert_eq!(files, chains);
        assert_eq!(self.active(), BTreeSet::new(), "nobody uses them");
    }
}

pub(crate) fn names(dir: &Path) -> BTreeSet<String> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

/// A tar of one file of this name, whose content is its name.
pub(crate) fn tar_of(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, name, name.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

/// A tar of files with this content; of directories, whose names end in `/`; of links, whose
/// content begins with `-> `.
pub(crate) fn tar_with(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, name, &b""[..]).unwrap();
        } else if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, name, target).unwrap();
        } else {
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

pub(crate) fn diff_of(tar: &[u8]) -> DiffId {
    Digest::of(tar).into()
}

/// Layers on top of each other, base first.
pub(crate) fn stack(tars: &[Vec<u8>]) -> Vec<NewLayer> {
    tars.iter()
        .enumerate()
        .map(|(at, tar)| NewLayer {
            parent: if at == 0 { Parent::None } else { Parent::Slot(at - 1) },
            expected: Some(diff_of(tar)),
        })
        .collect()
}

/// Begins, applies and finishes.
pub(crate) fn prepare(store: &LayerStore, tars: &[Vec<u8>]) -> Result<Ingest, LayerError> {
    let mut ingest = store.begin("load", stack(tars))?;
    for (slot, tar) in tars.iter().enumerate() {
        ingest.apply(slot, tar.as_slice())?;
    }
    ingest.finish()?;
    Ok(ingest)
}

/// A whole load: gives the top chain, which `owner` retains.
pub(crate) fn load(open: &Open, tars: &[Vec<u8>], owner: &str) -> Result<ChainId, LayerError> {
    let top = top_of(tars);
    let ingest = prepare(&open.store, tars)?;
    open.db.write(|tx| {
        ingest.record(tx)?;
        open.store.retain(tx, &top, owner)
    })?;
    ingest.done();
    Ok(top)
}

/// Commits a container's layer, and has `owner` need it.
pub(crate) fn commit(
    open: &Open,
    container: &ContainerId,
    owner: &str,
) -> Result<ChainId, LayerError> {
    let (mut ingest, _) = open.store.commit_rw("commit", container, Reach::AtRest)?;
    let chain = ingest.finish()?.remove(0);
    open.db.write(|tx| {
        ingest.record(tx)?;
        open.store.retain(tx, &chain, owner)
    })?;
    ingest.done();
    Ok(chain)
}

/// Removes every container, and every layer that only these need.
pub(crate) fn remove_all(open: &Open, owners: &[&str]) {
    let containers = open.store.list_rw().unwrap();
    let removed = open.db.write(|tx| {
        let mut removed = Vec::new();
        for rw in &containers {
            removed.extend(open.store.remove_rw(tx, &rw.container)?);
        }
        for layer in open.store.list()? {
            for owner in owners {
                removed.extend(open.store.release(tx, &layer.chain, owner)?);
            }
        }
        Ok::<_, LayerError>(removed)
    });
    open.store.purge(&removed.unwrap()).unwrap();
    open.store.reap().unwrap();
}

pub(crate) fn top_of(tars: &[Vec<u8>]) -> ChainId {
    let diffs: Vec<_> = tars.iter().map(|tar| diff_of(tar)).collect();
    ChainId::chain(&diffs).pop().unwrap()
}

/// A container on `parent`, made as the engine makes it.
pub(crate) fn container(open: &Open, parent: Option<&ChainId>) -> Result<ContainerId, LayerError> {
    let id = ContainerId::random();
    let options = CreateOptions::default();
    open.db.write(|tx| open.store.create_rw(tx, &id, parent, &options))?;
    open.store.ensure_rw(&id)?;
    Ok(id)
}

pub(crate) fn mount(store: &LayerStore, container: &ContainerId) -> Mounted {
    Mounted::new(store.prepare_rw(container, Access::Write).unwrap()).unwrap()
}

/// A driver of which one call fails, or all from one on, as if the process had been stopped there.
#[derive(Debug)]
pub(crate) struct Stopping {
    inner: Arc<dyn StorageDriver>,
    left: AtomicI64,
    is_lasting: bool,
    /// What failed first.
    failed: OnceLock<&'static str>,
}

impl Stopping {
    pub(crate) fn after(inner: Arc<dyn StorageDriver>, calls: i64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            left: AtomicI64::new(calls),
            is_lasting: true,
            failed: OnceLock::new(),
        })
    }

    /// Only the call after `calls` others fails.
    pub(crate) fn once_after(inner: Arc<dyn StorageDriver>, calls: i64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            left: AtomicI64::new(calls),
            is_lasting: false,
            failed: OnceLock::new(),
        })
    }

    /// The call that failed, or the first of them.
    pub(crate) fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// From now on no call fails.
    pub(crate) fn heal(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    fn call(&self, name: &'static str) -> Result<&dyn StorageDriver, StorageError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 || left < 0 && !self.is_lasting {
            return Ok(&*self.inner);
        }
        self.failed.get_or_init(|| name);
        let source = io::Error::other("stopped");
        Err(StorageError::Io { action: "reach", path: PathBuf::from("/"), source })
    }
}

impl StorageDriver for Stopping {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn status(&self) -> Vec<(String, String)> {
        self.inner.status()
    }
    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.call("metadata")?.metadata(id)
    }
    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        self.call("create")?.create(id, parent, options)
    }
    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.call("prepare")?.prepare(id, access)
    }
    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        self.call("release")?.release(id)
    }
    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.call("commit")?.commit(id)
    }
    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.call("remove")?.remove(id)
    }
    fn reap(&self) -> Result<(), StorageError> {
        self.call("reap")?.reap()
    }
    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        self.call("list")?.list()
    }
    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.call("recover")?.recover(keep)
    }
    fn sync(&self) -> Result<(), StorageError> {
        self.call("sync")?.sync()
    }
    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.call("set_aside")?.set_aside(id, lost_and_found)
    }
    fn mounts_to_fill(&self) -> bool {
        self.inner.mounts_to_fill()
    }
    fn native(&self) -> Option<&dyn NativeDiff> {
        self.inner.native()
    }
    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl Upkeep for Stopping {
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.call("replace")?.upkeep().expect("every driver here has it").replace(id, new)
    }
    fn place(&self, id: &LayerId) -> PathBuf {
        self.inner.upkeep().expect("every driver here has it").place(id)
    }
}
