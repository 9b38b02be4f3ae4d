//! Names below the home directory, and the state of layers that Docker has no file for.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use berth_fs::atomic;
use berth_types::LayerId;

use crate::StorageError;
use crate::error::io_at;
use crate::home::make_dir;

const COMMITTED: &str = "committed";
const MOUNTS: &str = "mnt";
const BEGUN: &str = ".berth-base";

/// What the pool's and the devices' names begin with: where the home directory is.
pub(super) fn prefix(home: &Path) -> Result<String, StorageError> {
    let meta = home.metadata().map_err(io_at("look at", home))?;
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    Ok(format!("docker-{major}:{minor}-{}", meta.ino()))
}

pub(super) fn make_dirs(home: &Path) -> Result<(), StorageError> {
    make_dir(home, 0o700)?;
    make_dir(&home.join(MOUNTS), 0o700)?;
    make_dir(&home.join(COMMITTED), 0o700)
}

pub(super) fn mount_point(home: &Path, id: &LayerId) -> PathBuf {
    home.join(MOUNTS).join(id.as_str())
}

/// Makes the directory that stays, empty, while a layer is not mounted. One that is there is fine; one that
/// is lost is made again at the next start, so that nothing is synced.
pub(super) fn make_mount_point(home: &Path, id: &LayerId) -> Result<(), StorageError> {
    let point = mount_point(home, id);
    match fs::DirBuilder::new().mode(0o755).create(&point) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io_at("create", point)(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn is_committed(home: &Path, id: &LayerId) -> Result<bool, StorageError> {
    let mark = home.join(COMMITTED).join(id.as_str());
    mark.try_exists().map_err(io_at("look at", mark))
}

pub(super) fn set_committed(home: &Path, id: &LayerId) -> Result<(), StorageError> {
    let mark = home.join(COMMITTED).join(id.as_str());
    let made = fs::OpenOptions::new().create(true).append(true).open(&mark);
    made.map(drop).map_err(io_at("create", mark))
}

pub(super) fn clear_committed(home: &Path, id: &LayerId) -> Result<(), StorageError> {
    let mark = home.join(COMMITTED).join(id.as_str());
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", mark)(error)),
        _ => Ok(()),
    }
}

/// The UUID of the base device's file system, if that has the directory of a layer.
pub(super) fn begun_base(home: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let path = home.join(BEGUN);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(io_at("read", path)),
    }
}

pub(super) fn set_begun_base(home: &Path, uuid: &str) -> Result<(), StorageError> {
    let path = home.join(BEGUN);
    atomic::write(&path, uuid.as_bytes()).map_err(io_at("write", path))
}

/// The layers that have a mount point, and those that are marked as frozen.
pub(super) fn named(home: &Path) -> Result<(Vec<LayerId>, Vec<LayerId>), StorageError> {
    Ok((ids(&home.join(MOUNTS))?, ids(&home.join(COMMITTED))?))
}

fn ids(dir: &Path) -> Result<Vec<LayerId>, StorageError> {
    let failed = || io_at("list", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        found.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
    }
    Ok(found)
}
