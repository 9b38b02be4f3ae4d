//! Engines on directories that go away with the test, and pictures of whole trees.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_api::image::ProgressMessage;
use berth_engine::images::{Archive, ImportRequest, Messages};
use berth_engine::registry::Limits;
use berth_engine::{Depth, Engine, EngineConfig, EngineError};
use berth_images::list::ListOptions;
use berth_types::kind::chain;
use berth_types::{IdMap, IdMaps};
use serde_json::Value;

/// The directories of an engine.
pub(crate) struct Dirs {
    dir: tempfile::TempDir,
    /// After `dir`, which lies on it.
    _fs: Option<Box<dyn std::any::Any>>,
}

/// An engine and the threads it works on. Dropped: both are gone, as after a stop.
pub(crate) struct Open {
    engine: Option<Engine>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Dirs {
    /// New ones, or `None` and a named skip where engines cannot be.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !testkit::is_root() {
            testkit::skip(test, "root");
            return None;
        }
        Some(Self { dir: tempfile::tempdir_in("/var/tmp").unwrap(), _fs: None })
    }

    /// New ones on a file system of this kind; a kind of `None` is what `/var/tmp` is on.
    pub(crate) fn on(test: &str, kind: Option<&str>) -> Option<Self> {
        let Some(kind) = kind else { return Self::new(test) };
        testkit::LoopFs::or_skip(test, kind).map(Self::on_fs)
    }

    /// New ones on this file system.
    pub(crate) fn on_fs(fs: testkit::LoopFs) -> Self {
        Self { dir: tempfile::tempdir_in(fs.path()).unwrap(), _fs: Some(Box::new(fs)) }
    }

    /// New ones on a disk of the virtual machine.
    pub(crate) fn on_disk(disk: testkit::disk::Mounted) -> Self {
        Self { dir: tempfile::tempdir_in(disk.path()).unwrap(), _fs: Some(Box::new(disk)) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_root(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn config(&self) -> EngineConfig {
        let exec_root = self.dir.path().join("exec");
        let mut config = EngineConfig::new(self.data_root(), exec_root, "/bin/true".into());
        config.bridge = "none".to_owned();
        config
    }

    /// Opens an engine on them.
    pub(crate) fn open(&self) -> Result<Open, EngineError> {
        self.open_on("")
    }

    /// The same below a directory of the test's own.
    pub(crate) fn below(dir: &Path) -> Self {
        Self { dir: tempfile::tempdir_in(dir).unwrap(), _fs: None }
    }

    /// Opens an engine on them whose containers' users are remapped, root to `uid`.
    pub(crate) fn open_remapped(&self, uid: u32) -> Result<Open, EngineError> {
        self.open_remapped_at(&self.remapped_root(uid), uid, "")
    }

    /// As [`open_remapped`](Self::open_remapped), in this directory, with this storage driver.
    pub(crate) fn open_remapped_at(
        &self,
        data_root: &Path,
        uid: u32,
        driver: &str,
    ) -> Result<Open, EngineError> {
        let map = IdMap::from_subordinate(&[(uid, 65536)]);
        let mut config = self.config();
        data_root.clone_into(&mut config.data_root);
        driver.clone_into(&mut config.storage_driver);
        config.ids = IdMaps { uids: map.clone(), gids: map };
        Self::open_config(config)
    }

    /// Where such an engine has its data.
    pub(crate) fn remapped_root(&self, uid: u32) -> PathBuf {
        self.data_root().join(format!("{uid}.{uid}"))
    }

    /// Opens an engine on them with this storage driver; empty chooses.
    pub(crate) fn open_on(&self, driver: &str) -> Result<Open, EngineError> {
        self.open_at(&self.data_root(), driver)
    }

    /// Opens an engine on another data root.
    pub(crate) fn open_at(&self, data_root: &Path, driver: &str) -> Result<Open, EngineError> {
        let mut config = self.config();
        data_root.clone_into(&mut config.data_root);
        driver.clone_into(&mut config.storage_driver);
        Self::open_config(config)
    }

    /// Opens an engine that is told this.
    pub(crate) fn open_config(mut config: EngineConfig) -> Result<Open, EngineError> {
        config.registry.limits =
            Limits { attempts: 3, pause: Duration::from_millis(1), ..Limits::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let engine = runtime.block_on(Engine::open(config))?;
        Ok(Open { engine: Some(engine), runtime: Some(runtime) })
    }

    /// Why an engine refuses to be opened on them.
    pub(crate) fn refusal(&self) -> String {
        match self.open() {
            Ok(_) => panic!("{} was not refused", self.data_root().display()),
            Err(error) => chain(&error),
        }
    }
}

impl Open {
    /// Makes an image with one file and gives the ids of all images.
    pub(crate) fn import(&self, content: &[u8]) -> Vec<String> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, "file", content).unwrap();
        let archive: Archive = Box::new(std::io::Cursor::new(tar.into_inner().unwrap()));
        let request = ImportRequest { repo: "test".to_owned(), ..ImportRequest::default() };
        self.block_on(self.engine().import_image(archive, request)).unwrap();
        self.images()
    }

    /// The ids of all images.
    pub(crate) fn images(&self) -> Vec<String> {
        let images = self.block_on(self.engine().list_images(ListOptions::default())).unwrap();
        images.into_iter().map(|image| image.id).collect()
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("there until dropped")
    }

    /// Calls what begins something on the engine's threads.
    pub(crate) fn begin<T>(&self, work: impl FnOnce(&Engine) -> T) -> T {
        self.block_on(async { work(self.engine()) })
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("there until dropped").block_on(future)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.engine.take());
        // Waits for what works in the background: it holds parts of the engine.
        drop(self.runtime.take());
    }
}

/// Everything about one entry of a tree but the time of its last reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    inode: u64,
    modified: (i64, i64),
    content: Vec<u8>,
}

impl Entry {
    /// A file's bytes, a link's target.
    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }
}

/// Every entry below `root`, and `root` itself.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            meta.rdev().to_le_bytes().to_vec()
        };
        let entry = Entry {
            mode: meta.permissions().mode(),
            owner: (meta.uid(), meta.gid()),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            content,
        };
        all.insert(path, entry);
    }
    all
}

/// Writes a file and the directories above it.
pub(crate) fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), content).unwrap();
}

/// How an operation that tells what it does came out: the last message's result, or the failure.
pub(crate) fn finish(
    open: &Open,
    messages: Result<Messages, EngineError>,
) -> Result<Value, String> {
    let mut messages = messages.map_err(|error| chain(&error))?;
    let all: Vec<ProgressMessage> = open.block_on(async {
        let mut all = Vec::new();
        while let Some(message) = messages.recv().await {
            all.push(message);
        }
        all
    });
    let last = all.into_iter().next_back().unwrap();
    match last.error {
        Some(error) if !error.is_empty() => Err(error),
        _ => Ok(last.aux.unwrap_or_default()),
    }
}

/// Everything on record is on the disk, to the byte.
pub(crate) fn is_clean(open: &Open) {
    let checked =
        finish(open, Ok(open.begin(|engine| engine.check_storage(Depth::Content)))).unwrap();
    assert_eq!(checked["Checked"]["Findings"], 0, "{checked}");
}
