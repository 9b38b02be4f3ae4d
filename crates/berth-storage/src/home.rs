//! A directory that holds one directory for each layer, and what makes changes to it safe.
//!
//! ```text
//! <64 hex>[-init]            a layer
//! .berth-creating-<id>       a layer whose creation has not finished; see `btrfs/transfer.rs`, too
//! .berth-removing-<id>-<n>   a layer that was removed and waits to be deleted
//! .berth-probe-<n>           a test of what the kernel can do
//! .berth-mapped              image layers hold ids of containers; see `overlay2/mapped.rs`
//! .berth-reserve             room for removals when the disk is full
//! ```
//!
//! Everything else in it belongs to somebody else and is left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_fs::atomic;
use berth_fs::reserve::Reserve;
use berth_sys::fsinfo;
use berth_sys::mount::{Unmount, unmount, unmount_tree};
use berth_types::{HexId, LayerId, Owner};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::StorageError;
use crate::delete::delete_tree;
use crate::error::io_at;

/// Marks what an interrupted call left; only a recovery looks for it.
pub(crate) const CREATING: &str = ".berth-creating-";
const REMOVING: &str = ".berth-removing-";
const PROBE: &str = ".berth-probe-";
/// Says that image layers hold ids of containers, where those are others than the host's.
pub(crate) const MAPPED: &str = ".berth-mapped";
/// Where layers are set aside when lost+found is on another file system.
const ASIDE: &str = ".berth-lost+found";

/// The mode of a driver's home and of its layers' directories in Docker 20.10.
pub(crate) const PRIVATE: u32 = 0o710;

/// The directory of the layers.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    driver: &'static str,
    /// Whose the roots of layers are; its group passes through what is around them.
    root: Owner,
    delete: Delete,
    reserve: Reserve,
    reaping: Mutex<()>,
}

/// Deletes a layer that nobody uses, with everything in it. Nothing there is fine.
pub(crate) type Delete = fn(&Path) -> io::Result<()>;

impl Home {
    /// Opens the directory, creating it when it is missing.
    pub(crate) fn open(
        driver: &'static str,
        dir: &Path,
        root: Owner,
    ) -> Result<Self, StorageError> {
        Self::open_with(driver, dir, root, delete_tree)
    }

    /// Like [`open`](Self::open), for layers that are more than directories.
    pub(crate) fn open_with(
        driver: &'static str,
        dir: &Path,
        root: Owner,
        delete: Delete,
    ) -> Result<Self, StorageError> {
        make_passage(dir, root)?;
        let reserve = Reserve::at(dir);
        reserve.renew();
        Ok(Self { dir: dir.to_owned(), driver, root, delete, reserve, reaping: Mutex::new(()) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a layer is.
    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// Whether the layer is there.
    pub(crate) fn has(&self, id: &LayerId) -> Result<bool, StorageError> {
        let path = self.layer(id);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_at("look at", path)(error)),
        }
    }

    /// Fails when the layer is not there.
    pub(crate) fn check(&self, id: &LayerId) -> Result<(), StorageError> {
        if self.has(id)? {
            return Ok(());
        }
        Err(StorageError::UnknownLayer { driver: self.driver, id: id.clone() })
    }

    /// Fails when the layer is there.
    pub(crate) fn check_new(&self, id: &LayerId) -> Result<(), StorageError> {
        if self.has(id)? {
            return Err(StorageError::LayerExists { driver: self.driver, id: id.clone() });
        }
        Ok(())
    }

    /// Where a layer is made that [`publish`](Self::publish) gives its name; nothing is there.
    pub(crate) fn stage(&self, id: &LayerId) -> Result<PathBuf, StorageError> {
        self.check_new(id)?;
        let path = self.dir.join(format!("{CREATING}{id}"));
        // Left by a call that failed.
        (self.delete)(&path).map_err(io_at("remove", &path))?;
        Ok(path)
    }

    /// An empty directory that [`publish`](Self::publish) turns into the layer, to be the layer's
    /// root.
    pub(crate) fn start_root(&self, id: &LayerId) -> Result<PathBuf, StorageError> {
        let path = self.stage(id)?;
        self.new_root(&path)?;
        Ok(path)
    }

    /// An empty directory that [`publish`](Self::publish) turns into the layer, to be around its
    /// root.
    pub(crate) fn start_creating(&self, id: &LayerId) -> Result<PathBuf, StorageError> {
        let path = self.stage(id)?;
        new_dir(&path, PRIVATE)?;
        let_pass(&path, self.root)?;
        Ok(path)
    }

    /// Creates the directory that is the root of a layer.
    pub(crate) fn new_root(&self, path: &Path) -> Result<(), StorageError> {
        new_dir(path, 0o755)?;
        self.own_root(path)
    }

    /// Gives the root of a new layer its owner.
    pub(crate) fn own_root(&self, path: &Path) -> Result<(), StorageError> {
        if self.root == Owner::ROOT {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.root.uid), Some(self.root.gid))
            .map_err(io_at("set the owner of", path))
    }

    /// Gives a finished layer its name.
    pub(crate) fn publish(&self, id: &LayerId) -> Result<(), StorageError> {
        let from = self.dir.join(format!("{CREATING}{id}"));
        renameat_with(CWD, &from, CWD, self.layer(id), RenameFlags::NOREPLACE)
            .map_err(io_at("rename", from))
    }

    /// Deletes a layer that could not be finished.
    pub(crate) fn stop_creating(&self, id: &LayerId) {
        let path = self.dir.join(format!("{CREATING}{id}"));
        if let Err(error) = (self.delete)(&path) {
            // The name marks it; the next recovery deletes it.
            tracing::warn!(%error, path = %path.display(), "cannot remove an unfinished layer");
        }
    }

    /// Every layer.
    pub(crate) fn list(&self) -> Result<Vec<LayerId>, StorageError> {
        let ids = self.names()?.into_iter().filter_map(|name| LayerId::parse(&name).ok());
        Ok(ids.collect())
    }

    /// Takes a layer away under a trash name. Gives that name, or `None` when it was not there.
    pub(crate) fn detach(&self, id: &LayerId) -> Result<Option<PathBuf>, StorageError> {
        let from = self.layer(id);
        for attempt in 0_u32.. {
            let to = self.dir.join(format!("{REMOVING}{id}-{attempt}"));
            let moved = self
                .reserve
                .spend(|| Ok(renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE)?));
            match moved.map_err(|error| (error.kind(), error)) {
                Ok(()) => return Ok(Some(to)),
                Err((io::ErrorKind::NotFound, _)) => return Ok(None),
                Err((io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty, _)) => {}
                Err((_, error)) => return Err(io_at("rename", from)(error)),
            }
        }
        Ok(None)
    }

    /// Puts `new` in the place of `id`; what was there, if anything, takes the other name.
    pub(crate) fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        let (from, to) = (self.layer(new), self.layer(id));
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE),
            other => other,
        }
        .map_err(io_at("rename", from))?;
        berth_fs::atomic::sync_dir(&self.dir).map_err(io_at("sync", &self.dir))
    }

    /// What was detached, by layer and path.
    pub(crate) fn detached(&self) -> Result<Vec<(LayerId, PathBuf)>, StorageError> {
        self.marked(REMOVING)
    }

    /// Makes all detachments so far durable, then deletes what they left. Goes on after a
    /// failure and gives the first.
    pub(crate) fn reap(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let trash = self.detached()?;
        if trash.is_empty() {
            return Ok(());
        }
        berth_fs::atomic::sync_dir(&self.dir).map_err(io_at("sync", &self.dir))?;
        let mut first = None;
        for (_, path) in trash {
            if let Err(error) = self.reserve.spend(|| (self.delete)(&path)) {
                first.get_or_insert(io_at("remove", path)(error));
            }
        }
        self.reserve.renew();
        first.map_or(Ok(()), Err)
    }

    /// Unfinished layers, for the driver to undo what lies outside their directories.
    pub(crate) fn unfinished(&self) -> Result<Vec<(LayerId, PathBuf)>, StorageError> {
        self.marked(CREATING)
    }

    /// Moves a layer to `lost_and_found`, or beside the layers when that is on another file
    /// system.
    pub(crate) fn set_aside(
        &self,
        id: &LayerId,
        lost_and_found: &Path,
    ) -> Result<PathBuf, StorageError> {
        self.check(id)?;
        let from = self.layer(id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for dir in [lost_and_found, &self.dir.join(ASIDE)] {
            make_dir(dir, 0o700)?;
            for attempt in 0_u32.. {
                let again = if attempt == 0 { String::new() } else { format!("-{attempt}") };
                let to = dir.join(format!("{}-{id}-{now}{again}", self.driver));
                match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                    Ok(()) => {
                        berth_fs::atomic::sync_dir(dir).map_err(io_at("sync", dir))?;
                        return Ok(to);
                    }
                    Err(Errno::XDEV) => break,
                    Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                    Err(error) => return Err(io_at("rename", from)(error)),
                }
            }
        }
        Err(io_at("set aside", from)(io::Error::from(Errno::XDEV)))
    }

    /// Makes everything on this file system survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        fsinfo::sync_fs_of(&self.dir).map_err(io_at("sync", &self.dir))
    }

    fn marked(&self, prefix: &str) -> Result<Vec<(LayerId, PathBuf)>, StorageError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            // What follows the id (`-0`) tells several of one id apart.
            let id = LayerId::parse(rest)
                .or_else(|_| LayerId::parse(rest.rsplit_once('-').map_or(rest, |(id, _)| id)));
            if let Ok(id) = id {
                found.push((id, self.dir.join(name)));
            }
        }
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let error = || io_at("list", &self.dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(error())? {
            // Names that are not UTF-8 are nobody's we know.
            if let Ok(name) = entry.map_err(error())?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// A directory for trying out what the kernel can do; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct ProbeDir(PathBuf);

impl ProbeDir {
    /// Makes one below `dir`, after clearing those that a crash left.
    pub(crate) fn new(dir: &Path) -> Result<Self, StorageError> {
        for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
            let entry = entry.map_err(io_at("list", dir))?;
            if entry.file_name().as_encoded_bytes().starts_with(PROBE.as_bytes()) {
                drop(Self(entry.path()));
            }
        }
        let random = HexId::random();
        let path = dir.join(format!("{PROBE}{}", random.short()));
        new_dir(&path, 0o700)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ProbeDir {
    fn drop(&mut self) {
        let cleared = unmount_tree(&self.0, Unmount::Lazy).and_then(|_| delete_tree(&self.0));
        if let Err(error) = cleared {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a probe's directory");
        }
    }
}

/// Creates one directory with exactly this mode; an existing one is an error.
pub(crate) fn new_dir(path: &Path, mode: u32) -> Result<(), StorageError> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(io_at("create", path))?;
    set_mode(path, mode)
}

/// Like [`new_dir`], with parents, and an existing one is used as it is.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), StorageError> {
    berth_fs::atomic::create_dir_durable(path, mode).map_err(io_at("create", path))
}

/// Makes a directory around layers, or uses the one that is there; `root` may pass through it.
pub(crate) fn make_passage(path: &Path, root: Owner) -> Result<(), StorageError> {
    make_dir(path, PRIVATE)?;
    let_pass(path, root)
}

/// Lets the group of containers' root pass through a directory.
fn let_pass(path: &Path, root: Owner) -> Result<(), StorageError> {
    if root == Owner::ROOT {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(root.gid)).map_err(io_at("set the group of", path))
}

/// The mode without what the process's mask took away.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), StorageError> {
    let is = fs::symlink_metadata(path).map_err(io_at("look at", path))?.mode() & 0o7777;
    if is == mode {
        return Ok(());
    }
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(io_at("set the mode of", path))
}

/// Removes the files of a directory whose writing was interrupted: they never got their names.
pub(crate) fn clear_temporaries(dir: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        let entry = entry.map_err(io_at("list", dir))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(atomic::TEMPORARY_PREFIX.as_bytes()) {
            fs::remove_file(entry.path()).map_err(io_at("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Unmounts what a dead holder left at `path`. Nothing there is fine.
pub(crate) fn free_mount_point(path: &Path) -> Result<(), StorageError> {
    loop {
        match unmount(path, Unmount::Lazy) {
            // There may be several on top of each other.
            Ok(()) => {}
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::INVAL) => return Ok(()),
                _ => return Err(io_at("unmount", path)(error)),
            },
        }
    }
}

/// Unmounts what a dead holder left at `path` and removes the mount point. Nothing there is fine.
pub(crate) fn clear_mount_point(path: &Path) -> Result<(), StorageError> {
    free_mount_point(path)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            // Somebody wrote here when nothing was mounted. It does no harm below the next mount.
            tracing::warn!(path = %path.display(), "a mount point is not empty and stays");
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", path)(error)),
        _ => Ok(()),
    }
}
