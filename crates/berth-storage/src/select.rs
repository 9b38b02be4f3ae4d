//! Which driver a data root uses: the order of Docker 20.10.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use berth_types::{Classify, ErrorKind, IdMaps, Owner};

use crate::aufs::Aufs;
use crate::btrfs::Btrfs;
use crate::devicemapper::Devicemapper;
use crate::error::io_at;
use crate::fuse_overlayfs::FuseOverlayfs;
use crate::overlay::Overlay;
use crate::overlay2::Overlay2;
use crate::vfs::Vfs;
use crate::zfs::Zfs;
use crate::{StorageDriver, StorageError};

/// What decides the choice.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The data root; the driver's home is a directory of its name below it.
    pub root: &'a Path,
    /// `--storage-driver` or the key of that name; empty or absent chooses by itself.
    pub name: Option<&'a str>,
    /// The environment's word, which wins over `name`.
    pub environment: Option<Environment<'a>>,
    /// `--storage-opt`, each `key=value`.
    pub options: &'a [String],
    /// What containers' root is on the host.
    pub owner: Owner,
    /// How image layers may hold ids of containers all the same; `None` where they must not.
    pub mapping: Option<Mapping<'a>>,
}

/// What a driver needs for image layers that hold ids of containers where those are others than the
/// host's: mounts translate them then, and nothing has to be given to anybody when it is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Mapping<'a> {
    /// What ids of containers are on the host.
    pub ids: &'a IdMaps,
    /// A directory for mounts that last as long as the driver is open.
    pub dir: &'a Path,
}

/// A driver named by an environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Environment<'a> {
    /// The variable, for example `DOCKER_DRIVER`.
    pub variable: &'a str,
    /// What it says; empty counts as unset.
    pub name: &'a str,
}

/// The variables that name a driver; the first that is set wins.
pub const VARIABLES: [&str; 2] = ["BERTH_DRIVER", "DOCKER_DRIVER"];

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

/// Every driver that Docker has, in the order of 20.10's automatic choice, and how it is opened.
#[rustfmt::skip]
const DRIVERS: &[Known] = &[
    Known { name: "btrfs",          chosen: Chosen::Freely, open: open_btrfs },
    Known { name: "zfs",            chosen: Chosen::Freely, open: open_zfs },
    Known { name: "overlay2",       chosen: Chosen::Freely, open: open_overlay2 },
    Known { name: "fuse-overlayfs", chosen: Chosen::Freely, open: open_fuse_overlayfs },
    Known { name: "aufs",           chosen: Chosen::ByName, open: open_aufs },
    Known { name: "overlay",        chosen: Chosen::ByName, open: open_overlay },
    Known { name: "devicemapper",   chosen: Chosen::ByName, open: open_devicemapper },
    Known { name: "vfs",            chosen: Chosen::Freely, open: open_vfs },
];

/// A row of the table.
struct Known {
    name: &'static str,
    chosen: Chosen,
    open: Opener,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    /// By name, by prior state, or because it works.
    Freely,
    /// By name or by prior state: it is deprecated.
    ByName,
}

type Opener = fn(&Path, &Selection<'_>) -> Opened;
type Opened = Result<Arc<dyn StorageDriver>, StorageError>;

/// Opens the driver that `selection` asks for, or the one that this data root calls for.
///
/// A driver that is asked for, or that left layers in the data root, is never replaced by
/// another when it cannot be opened.
pub fn open(selection: &Selection<'_>) -> Result<Arc<dyn StorageDriver>, SelectError> {
    choose(selection).map_err(|source| SelectError { source })
}

/// What `docker info` warns of about the driver in use.
pub fn warnings(driver: &dyn StorageDriver) -> Vec<String> {
    let name = driver.name();
    let mut warnings = Vec::new();
    if is_deprecated(name) {
        warnings.push(format!(
            "WARNING: the {name} storage-driver is deprecated, and will be removed in a future \
             release."
        ));
    }
    let status = driver.status();
    let value = |key: &str| status.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    if value("Data loop file").is_some() {
        warnings.push(format!(
            "WARNING: {name}: usage of loopback devices is strongly discouraged for production \
             use.\n         Use `--storage-opt dm.thinpooldev` to specify a custom block storage \
             device."
        ));
    }
    if value("Supports d_type") == Some("false") {
        let advice = match value("Backing Filesystem") {
            Some("xfs") => {
                "Reformat the filesystem with ftype=1 to enable d_type support.\n         "
            }
            _ => "",
        };
        warnings.push(format!(
            "WARNING: {name}: the backing {} filesystem is formatted without d_type support, \
             which leads to incorrect behavior.\n         {advice}Running without d_type support \
             will not be supported in future releases.",
            value("Backing Filesystem").unwrap_or_default()
        ));
    }
    warnings
}

fn is_deprecated(name: &str) -> bool {
    DRIVERS.iter().any(|known| known.name == name && known.chosen == Chosen::ByName)
}

fn choose(selection: &Selection<'_>) -> Result<Arc<dyn StorageDriver>, StorageError> {
    if let Some(Environment { variable, name }) =
        selection.environment.filter(|environment| !environment.name.is_empty())
    {
        tracing::info!(
            "Setting the storage driver from the ${variable} environment variable ({name})"
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
    first_that_works(selection)
}

fn first_that_works(selection: &Selection<'_>) -> Result<Arc<dyn StorageDriver>, StorageError> {
    for Known { name, open, .. } in DRIVERS.iter().filter(|known| known.chosen == Chosen::Freely) {
        match open(&selection.root.join(name), selection) {
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
    #[cfg(any(test, feature = "testing"))]
    if name == crate::twin::NAME {
        return Ok(Arc::new(crate::twin::BlockTwin::open(&selection.root.join(name))?));
    }
    let Some(known) = DRIVERS.iter().find(|known| known.name == name) else {
        return Err(StorageError::NotSupported);
    };
    let driver = (known.open)(&selection.root.join(name), selection)?;
    if known.chosen == Chosen::ByName {
        tracing::warn!(
            "[graphdriver] WARNING: the {name} storage-driver is deprecated, and will be removed \
             in a future release"
        );
    }
    Ok(driver)
}

/// The drivers that left something in the data root, in the order of choice.
fn prior(root: &Path) -> Result<Vec<&'static str>, StorageError> {
    let mut found = Vec::new();
    for Known { name, .. } in DRIVERS {
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

fn open_aufs(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(Aufs::open_for(home, selection.options, selection.owner)?))
}

fn open_btrfs(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(Btrfs::open_for(home, selection.options, selection.owner)?))
}

fn open_devicemapper(home: &Path, selection: &Selection<'_>) -> Opened {
    if selection.owner != Owner::ROOT {
        let text = "devicemapper: userns-remap is not supported by this version of berth";
        return Err(StorageError::Option(text.to_owned()));
    }
    Ok(Arc::new(Devicemapper::open(home, selection.options)?))
}

fn open_fuse_overlayfs(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(FuseOverlayfs::open_for(home, selection.options, selection.owner)?))
}

fn open_overlay(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(Overlay::open_for(home, selection.options, selection.owner)?))
}

fn open_overlay2(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(Overlay2::open_for(home, selection.options, selection.owner, selection.mapping)?))
}

fn open_vfs(home: &Path, selection: &Selection<'_>) -> Opened {
    Ok(Arc::new(Vfs::open_for(home, selection.options, selection.owner)?))
}

fn open_zfs(home: &Path, selection: &Selection<'_>) -> Opened {
    let opened = Zfs::open_for(home, selection.options, selection.owner);
    if let (Err(StorageError::Prerequisites), Some("zfs")) = (&opened, selection.name) {
        tracing::error!(
            "zfs needs its commands, its kernel module, and a data root on ZFS or --storage-opt \
             zfs.fsname; a pool that is missing after a start is imported by zpool import, and its \
             file systems are mounted by zfs mount -a"
        );
    }
    Ok(Arc::new(opened?))
}

#[cfg(test)]
mod tests;
