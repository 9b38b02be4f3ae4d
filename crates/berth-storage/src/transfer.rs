//! Copying layers from one data root to another, for backups and for restoring them. The copy has
//! the same names and the same layout.
//!
//! No driver is opened over either side: the source may be on a read-only medium, and the target on a
//! file system that the driver could not work on.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::copy::Mirror;
use berth_fs::root::Root;
use berth_types::LayerId;

use crate::error::io_at;
use crate::home::MAPPED;
use crate::{StorageError, aufs, btrfs, overlay, stack, vfs};

/// Copies the layers of one driver.
#[derive(Debug)]
pub struct Transfer<'a> {
    driver: &'static str,
    form: Form,
    from: PathBuf,
    to: PathBuf,
    mirror: Mirror<'a>,
    done: BTreeSet<LayerId>,
}

/// What the layers of a driver look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Stack,
    Aufs,
    Overlay,
    Vfs,
    Btrfs,
}

#[rustfmt::skip]
const FORMS: &[(&str, Form)] = &[
    ("overlay2",       Form::Stack),
    ("fuse-overlayfs", Form::Stack),
    ("aufs",           Form::Aufs),
    ("overlay",        Form::Overlay),
    ("vfs",            Form::Vfs),
    ("btrfs",          Form::Btrfs),
];

fn known(driver: &str) -> Result<(&'static str, Form), StorageError> {
    let found = FORMS.iter().find(|(name, _)| *name == driver);
    found.copied().ok_or_else(|| StorageError::CannotCopy { driver: driver.to_owned() })
}

/// Refuses, by name, a driver whose layers cannot be copied.
pub fn check(driver: &str) -> Result<(), StorageError> {
    known(driver).map(drop)
}

/// What one copy is told of a layer.
pub(crate) struct Copied<'a, 'm> {
    pub(crate) driver: &'static str,
    pub(crate) from: &'a Path,
    pub(crate) to: &'a Path,
    pub(crate) id: &'a LayerId,
    /// What it was made of.
    pub(crate) parent: Option<&'a LayerId>,
    pub(crate) mirror: &'a mut Mirror<'m>,
}

impl Copied<'_, '_> {
    /// Copies the tree at this path below the home, into a directory that may be there already.
    pub(crate) fn tree(&mut self, place: &Path) -> Result<u64, StorageError> {
        let (from, to) = (self.from.join(place), self.to.join(place));
        let source = match Root::open(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (driver, id) = (self.driver, self.id.clone());
                return Err(StorageError::UnknownLayer { driver, id });
            }
            other => other.map_err(io_at("open", &from))?,
        };
        match crate::home::new_dir(&to, 0o700) {
            Err(StorageError::Io { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.mirror.tree(&source, place).map_err(|error| StorageError::Io {
            action: "copy",
            path: from,
            source: io::Error::other(error),
        })
    }

    /// Makes the directory around a layer's files, for the group that passes through the original.
    pub(crate) fn passage(&self, place: &Path) -> Result<(), StorageError> {
        use std::os::unix::fs::MetadataExt as _;
        let (from, to) = (self.from.join(place), self.to.join(place));
        let group = match fs::symlink_metadata(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (driver, id) = (self.driver, self.id.clone());
                return Err(StorageError::UnknownLayer { driver, id });
            }
            other => other.map_err(io_at("look at", from))?.gid(),
        };
        crate::home::new_dir(&to, crate::home::PRIVATE)?;
        std::os::unix::fs::chown(&to, None, Some(group)).map_err(io_at("set the group of", to))
    }

    /// Copies a small file, if it is there.
    pub(crate) fn small(&self, place: &Path, mode: u32) -> Result<Option<Vec<u8>>, StorageError> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let (from, to) = (self.from.join(place), self.to.join(place));
        let content = match fs::read(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("read", from))?,
        };
        let open = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&to);
        open.and_then(|mut file| file.write_all(&content)).map_err(io_at("write", to))?;
        Ok(Some(content))
    }
}

/// Makes the directories that a driver's home consists of, below the new data root `to`.
pub fn make_home(driver: &str, to: &Path) -> Result<(), StorageError> {
    let dirs: &[(&str, u32)] = match known(driver)?.1 {
        Form::Stack => &[("", 0o710), ("l", 0o700)],
        Form::Aufs => {
            &[("", 0o710), ("diff", 0o710), ("layers", 0o710), ("mnt", 0o710), ("committed", 0o700)]
        }
        Form::Overlay => &[("", 0o710)],
        Form::Vfs => &[("", 0o710), ("dir", 0o710), ("committed", 0o700)],
        Form::Btrfs => &[("", 0o710), ("subvolumes", 0o710), ("quotas", 0o700)],
    };
    for (name, mode) in dirs {
        crate::home::make_dir(&to.join(driver).join(name), *mode)?;
    }
    Ok(())
}

/// Deletes what a copy that is not wanted has in `to` and what no plain deletion can delete.
pub fn discard(driver: &str, to: &Path) -> Result<(), StorageError> {
    if known(driver)?.1 == Form::Btrfs {
        return btrfs::discard(&to.join(driver));
    }
    Ok(())
}

impl<'a> Transfer<'a> {
    /// From the data root `from` to the data root `to`, in which [`make_home`] was called; `target` is
    /// the driver's home in it.
    pub fn open(
        driver: &str,
        from: &Path,
        to: &Path,
        target: &'a Root,
    ) -> Result<Self, StorageError> {
        let (driver, form) = known(driver)?;
        let mirror = Mirror::new(target);
        let (from, to) = (from.join(driver), to.join(driver));
        if from.join(MAPPED).try_exists().map_err(io_at("look at", &from))? {
            // Before the first layer, which is copied with the owners that it has.
            berth_fs::atomic::write(&to.join(MAPPED), b"").map_err(io_at("mark", &to))?;
        }
        Ok(Self { driver, form, from, to, mirror, done: BTreeSet::new() })
    }

    /// Whether what a layer was made of must be there before it, for it to share anything.
    pub fn is_ordered(&self) -> bool {
        self.form == Form::Btrfs
    }

    /// Copies a layer; where [order matters](Self::is_ordered), after what it was made of. Gives the bytes copied, 0 where they are shared or were copied before.
    pub fn layer(&mut self, id: &LayerId, parent: Option<&LayerId>) -> Result<u64, StorageError> {
        if self.done.contains(id) {
            return Ok(0);
        }
        let (driver, mirror) = (self.driver, &mut self.mirror);
        let copied = &mut Copied { driver, from: &self.from, to: &self.to, id, parent, mirror };
        let bytes = match self.form {
            Form::Stack => stack::transfer(copied),
            Form::Aufs => aufs::transfer(copied),
            Form::Overlay => overlay::transfer(copied),
            Form::Vfs => vfs::transfer(copied),
            Form::Btrfs => btrfs::transfer(copied),
        }?;
        self.done.insert(id.clone());
        Ok(bytes)
    }
}
