//! `berth storage restore`: a data root made of a backup, before a daemon uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_db::Db;
use berth_fs::copy::Mirror;
use berth_fs::lock::LockGuard;
use berth_fs::root::Root;
use berth_fs::steps;
use berth_layers::{LayerStore, RwLayer};
use berth_storage::transfer::{self, Transfer};
use berth_storage::{CreateOptions, Selection, StorageDriver, select};
use berth_types::LayerId;

use super::backup::mirror;
use super::note::Note;
use crate::data_root::{self, DataRootError, RESTORING};
use crate::engine::SCHEMAS;
use crate::error::EngineError;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The storage driver.
    pub driver: String,
    /// When the backup was made.
    pub created: String,
    /// Image layers.
    pub layers: u64,
    /// Containers.
    pub containers: u64,
    /// Whether the backup has the content of volumes.
    pub volumes: bool,
    /// The data root that was filled.
    pub path: PathBuf,
}

/// Fills the data root `root`, a missing or empty directory, from the backup in `source`. `report`
/// hears how many layers of how many are done. The backup is not changed. One of containers whose ids
/// are remapped fills the directory below `root` that such containers have.
///
/// A daemon takes the root once all of it is synced, and refuses it before.
pub fn restore_backup(
    source: &Path,
    root: &Path,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Restored, EngineError> {
    let note = Note::read(source)?;
    let root = &data_root::place(root, note.owner())?;
    make_empty(root)?;
    let lock = root.join("lock");
    let _lock = LockGuard::acquire(&lock).map_err(|source| {
        EngineError::DataRoot(DataRootError::Locked { path: root.to_owned(), source })
    })?;
    let marker = root.join(RESTORING);
    File::create_new(&marker).map_err(EngineError::io("create", &marker))?;
    steps::reached("restore.begun");
    let filled = fill(&note, source, root, report);
    if filled.is_err() {
        discard(&note.driver, root);
    }
    let restored = filled?;
    let io = |action| EngineError::io(action, root);
    berth_sys::fsinfo::sync_fs_of(root).map_err(io("sync"))?;
    steps::reached("restore.synced");
    data_root::write_marker(root, note.owner()).map_err(io("mark"))?;
    fs::remove_file(&marker).map_err(EngineError::io("remove", &marker))?;
    berth_fs::atomic::sync_dir(root).map_err(io("sync"))?;
    Ok(restored)
}

fn make_empty(root: &Path) -> Result<(), EngineError> {
    let io = |action| EngineError::io(action, root);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(root).map_err(io("create"))?;
    for entry in fs::read_dir(root).map_err(io("read"))? {
        let path = entry.map_err(io("read"))?.path();
        // A new file system has one.
        let is_lost = path.file_name().is_some_and(|name| name == "lost+found");
        let is_empty = fs::read_dir(&path).is_ok_and(|mut inside| inside.next().is_none());
        if !(is_lost && is_empty) {
            return Err(EngineError::RestoreNotEmpty { path: root.to_owned() });
        }
    }
    Ok(())
}

/// Empties the root again.
fn discard(driver: &str, root: &Path) {
    let emptied = transfer::discard(driver, root).map_err(io::Error::other).and_then(|()| {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    });
    if let Err(error) = emptied {
        tracing::warn!(%error, root = %root.display(), "what a failed restore left stays");
    }
}

fn fill(
    note: &Note,
    source: &Path,
    root: &Path,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Restored, EngineError> {
    data_root::lay_out(root).map_err(EngineError::io("fill", root))?;
    let log = root.join("berth.db");
    berth_db::create_log(&log).map_err(EngineError::io("create the log of", &log))?;
    for name in ["berth.db", "berth.db-wal", "engine-id"] {
        let from = source.join(name);
        match fs::copy(&from, root.join(name)) {
            // Everything may be in the main file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with("-wal") => {}
            other => drop(other.map_err(EngineError::io("copy", &from))?),
        }
    }
    let db = Arc::new(Db::open(&root.join("berth.db"), SCHEMAS)?);
    let selection = Selection {
        root,
        name: Some(&note.driver),
        environment: None,
        options: &[],
        owner: note.owner(),
        // As the backup has it, which the copying sees to.
        mapping: None,
    };
    let driver = select::open(&selection)?;
    let layers = LayerStore::open(root, Arc::clone(&driver), Arc::clone(&db))?;
    let home = root.join(&note.driver);
    let target = Root::open(&home).map_err(EngineError::io("open", &home))?;
    let mut copying = Transfer::open(&note.driver, source, root, &target)?;
    let (images, containers) = (layers.list()?, layers.list_rw()?);
    let total = (images.len() + containers.len()) as u64;
    let mut done = 0;
    for layer in &images {
        let below = match &layer.parent {
            Some(parent) => layers.get(parent)?.map(|below| below.layer),
            None => None,
        };
        copying.layer(&layer.layer, below.as_ref())?;
        done += 1;
        report(done, total);
    }
    for rw in &containers {
        let parent = match &rw.parent {
            Some(parent) => layers.get(parent)?.map(|below| below.layer),
            None => None,
        };
        make_limited(&*driver, rw, parent.as_ref())?;
        let init = rw.mount.init();
        copying.layer(&init, parent.as_ref())?;
        copying.layer(&rw.mount, Some(&init))?;
        if !rw.storage_opt.is_empty() && driver.native().is_some() {
            driver.commit(&init)?;
        }
        done += 1;
        report(done, total);
    }
    copy_rest(source, root)?;
    db.checkpoint()?;
    steps::reached("restore.copied");
    Ok(Restored {
        driver: note.driver.clone(),
        created: note.created.clone(),
        layers: images.len() as u64,
        containers: containers.len() as u64,
        volumes: note.volumes,
        path: root.to_owned(),
    })
}

/// A layer with a size is made by its driver, which knows how to limit it.
fn make_limited(
    driver: &dyn StorageDriver,
    rw: &RwLayer,
    parent: Option<&LayerId>,
) -> Result<(), EngineError> {
    // btrfs limits a layer whenever it is mounted, by what is in its home.
    if rw.storage_opt.is_empty() || driver.name() == "btrfs" {
        return Ok(());
    }
    let options = CreateOptions {
        writable: true,
        storage_opt: rw.storage_opt.clone(),
        mount_label: String::new(),
    };
    let init = rw.mount.init();
    if driver.native().is_some() {
        driver.create(&init, parent, &options)?;
        driver.create(&rw.mount, Some(&init), &options)?;
    } else {
        // What it begins with is copied.
        driver.create(&init, None, &options)?;
        driver.create(&rw.mount, None, &options)?;
    }
    Ok(())
}

/// Everything beside the driver's layers.
fn copy_rest(source: &Path, root: &Path) -> Result<(), EngineError> {
    let top = Root::open(root).map_err(EngineError::io("open", root))?;
    let mut files = Mirror::new(&top);
    for name in ["layers", "containers", "volumes"] {
        mirror(&mut files, &source.join(name), root, &PathBuf::from(name))?;
    }
    Ok(())
}
