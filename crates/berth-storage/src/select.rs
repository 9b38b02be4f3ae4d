//! Which driver a data root uses: the order of Docker 20.10 among what is built here.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use berth_types::{Classify, ErrorKind};

use crate::btrfs::Btrfs;
use crate::error::io_at;
use crate::overlay2::Overlay2;
use crate::vfs::Vfs;
use crate::{StorageDriver, StorageError};

/// What decides the choice.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The data root; the driver's home is a directory of its name below it.
    pub root: &'a Path,
    /// `--storage-driver` or the key of that name; empty or absent chooses by itself.
    pub name: Option<&'a str>,
    /// The driver named by the environment; wins over `name`.
    pub environment: Option<&'a str>,
    /// `--storage-opt`, each `key=value`.
    pub options: &'a [String],
}

/// Why no driver could be opened.
#[derive(Debug, thiserror::Error)]
#[error("error initializing graphdriver")]
pub struct SelectError {
    /// The reason.
    pub source: StorageError,
}

impl Classify for SelectError {
    fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// Every driver that Docker has, in the order of 20.10's automatic choice, and how those that
/// are built here are opened.
#[rustfmt::skip]
const DRIVERS: &[(&str, Option<Opener>)] = &[
    ("btrfs",          Some(open_btrfs)),
    ("zfs",            None),
    ("overlay2",       Some(open_overlay2)),
    ("fuse-overlayfs", None),
    ("aufs",           None),
    ("overlay",        None),
    ("devicemapper",   None),
    ("vfs",            Some(open_vfs)),
];

type Opener = fn(&Path, &[String]) -> Result<Arc<dyn StorageDriver>, StorageError>;

/// Opens the driver that `selection` asks for, or the one that this data root calls for.
///
/// A driver that is asked for, or that left layers in the data root, is never replaced by
/// another when it cannot be opened.
pub fn open(selection: &Selection<'_>) -> Result<Arc<dyn StorageDriver>, SelectError> {
    choose(selection).map_err(|source| SelectError { source })
}

fn choose(selection: &Selection<'_>) -> Result<Arc<dyn StorageDriver>, StorageError> {
    if let Some(name) = selection.environment.filter(|name| !name.is_empty()) {
        tracing::info!(
            "Setting the storage driver from the $DOCKER_DRIVER environment variable ({name})"
        );
        return open_named(selection, name);
    }
    if let Some(name) = selection.name.filter(|name| !name.is_empty()) {
        return open_named(selection, name);
    }
    let prior = prior(selection.root)?;
    if let Some(&first) = prior.first() {
        let driver = open_named(selection, first).inspect_err(|error| {
            tracing::error!("[graphdriver] prior storage driver {first} failed: {error}");
        })?;
        if prior.len() > 1 {
            let root = selection.root.to_owned();
            return Err(StorageError::SeveralPrior { root, names: prior });
        }
        tracing::info!("[graphdriver] using prior storage driver: {first}");
        return Ok(driver);
    }
    for (name, opener) in DRIVERS {
        let Some(opener) = opener else { continue };
        match opener(&selection.root.join(name), selection.options) {
            Err(error) if error.is_not_supported() => {
                tracing::debug!("[graphdriver] storage driver {name} does not work here: {error}");
            }
            other => return other,
        }
    }
    Err(StorageError::NoneFound)
}

fn open_named(
    selection: &Selection<'_>,
    name: &str,
) -> Result<Arc<dyn StorageDriver>, StorageError> {
    match DRIVERS.iter().find(|(known, _)| *known == name) {
        None => Err(StorageError::NotSupported),
        Some((name, None)) => Err(StorageError::NotBuilt { name }),
        Some((name, Some(opener))) => opener(&selection.root.join(name), selection.options),
    }
}

/// The drivers that left something in the data root, in the order of choice.
fn prior(root: &Path) -> Result<Vec<&'static str>, StorageError> {
    let mut found = Vec::new();
    for (name, _) in DRIVERS {
        // Docker forgets it as well: vfs is what one falls back to, not what one chooses.
        if *name != "vfs" && !is_empty(&root.join(name))? {
            found.push(*name);
        }
    }
    Ok(found)
}

/// Whether a directory is missing or has nothing in it. One that cannot be read counts as full.
pub(crate) fn is_empty(dir: &Path) -> Result<bool, StorageError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(io_at("list", dir)(error)),
    }
}

fn open_btrfs(home: &Path, options: &[String]) -> Result<Arc<dyn StorageDriver>, StorageError> {
    Ok(Arc::new(Btrfs::open(home, options)?))
}

fn open_overlay2(home: &Path, options: &[String]) -> Result<Arc<dyn StorageDriver>, StorageError> {
    Ok(Arc::new(Overlay2::open(home, options)?))
}

fn open_vfs(home: &Path, options: &[String]) -> Result<Arc<dyn StorageDriver>, StorageError> {
    Ok(Arc::new(Vfs::open(home, options)?))
}

#[cfg(test)]
mod tests;
