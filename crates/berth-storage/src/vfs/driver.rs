//! The driver's calls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::copy::{self, Xattrs};
use berth_fs::root::Root;
use berth_types::{LayerId, Owner};

use super::DIR;
use crate::error::io_at;
use crate::home::{Home, make_passage};
use crate::markers::Markers;
use crate::options::{key_value, parse_size};
use crate::quota::{Quotas, SizeLimit};
use crate::{
    Access, CreateOptions, LayerState, NativeDiff, Prepared, StorageDriver, StorageError, Upkeep,
};

pub(crate) const NAME: &str = "vfs";
const NO_QUOTA: &str = "Filesystem does not support, or has not enabled quotas";

/// The driver over one home directory.
#[derive(Debug)]
pub struct Vfs {
    pub(super) home: Home,
    pub(super) markers: Markers,
    quotas: Option<Quotas>,
    /// `size`: of containers that ask for none; 0 is no limit.
    size: i64,
}

impl Vfs {
    /// Opens the driver whose home is `dir`, creating it when it is missing.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        let size = parse_options(options)?;
        // The home may not be there yet, and is not made by a start that fails.
        let there = if dir.is_dir() { dir } else { dir.parent().unwrap_or(dir) };
        if size > 0 && Quotas::below(there).is_none() {
            return Err(StorageError::Option(NO_QUOTA.to_owned()));
        }
        make_passage(dir, root)?;
        let home = Home::open(NAME, &dir.join(DIR), root)?;
        let quotas = Quotas::below(home.dir());
        Ok(Self { home, markers: Markers::open(dir)?, quotas, size })
    }

    fn fill_new(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
        limit: Option<SizeLimit<'_>>,
    ) -> Result<(), StorageError> {
        if let Some(parent) = parent {
            self.home.check(parent)?;
        }
        let dir = self.home.start_root(id)?;
        if let Some(limit) = limit {
            limit.apply(&dir)?;
        }
        if let Some(parent) = parent {
            // A project has its files for itself.
            let way = if id.is_init() && limit.is_none() { Way::Link } else { Way::Copy };
            self.fill_as(parent, &dir, way)?;
            if writable {
                // A container's layer is recorded by then and nobody syncs it later: a power cut
                // must not leave it with empty files.
                self.home.sync()?;
            }
        }
        self.home.publish(id)
    }

    /// Gives the empty directory `dir` the content of `parent`.
    fn fill_as(&self, parent: &LayerId, dir: &Path, way: Way) -> Result<(), StorageError> {
        let from = self.home.layer(parent);
        let source = Root::open(&from).map_err(io_at("open", from))?;
        let target = Root::open(dir).map_err(io_at("open", dir))?;
        let filled = match way {
            Way::Copy => copy::tree(&source, &target, Xattrs::All).map(drop),
            Way::Link => copy::links(&source, &target),
        };
        filled.map_err(|error| StorageError::Io {
            action: "copy a layer to",
            path: dir.to_owned(),
            source: io::Error::other(error),
        })
    }
}

/// How a layer gets what it stands on.
#[derive(Debug, Clone, Copy)]
enum Way {
    Copy,
    /// Files are the same, so they must not be written to: as in an init layer, which has what is
    /// new in it before anybody reads it, and in which nothing is changed in place.
    Link,
}

impl StorageDriver for Vfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.home.check(id)?;
        Ok(None)
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        let size = self.check_create_options(options)?;
        let limit = self.quotas.as_ref().and_then(|quotas| quotas.limit(size));
        let made = self.fill_new(id, parent, options.writable, limit);
        if made.is_err() && !matches!(made, Err(StorageError::LayerExists { .. })) {
            self.home.stop_creating(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        if access == Access::Write && self.markers.has(id)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        Ok(Prepared { root: self.home.layer(id), mounts: Vec::new(), teardown: Vec::new() })
    }

    fn release(&self, _id: &LayerId) -> Result<(), StorageError> {
        Ok(())
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        self.markers.set(id)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.detach(id)?;
        self.markers.clear(id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        self.home.reap()
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let with_state = |id: LayerId| {
            let committed = self.markers.has(&id)?;
            Ok((id, if committed { LayerState::Committed } else { LayerState::Active }))
        };
        self.home.list()?.into_iter().map(with_state).collect()
    }

    fn recover(&self, _keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.clean_up()
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.home.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        let moved = self.home.set_aside(id, lost_and_found)?;
        self.markers.clear(id)?;
        Ok(moved)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl Upkeep for Vfs {
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        // First: a frozen layer must not be written to for a moment.
        self.markers.set(id)?;
        self.home.replace(id, new)
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}

/// Gives the size that `size` asks for, 0 for none.
fn parse_options(options: &[String]) -> Result<i64, StorageError> {
    let mut size = 0;
    for option in options {
        let (key, value) = key_value(option)?;
        match key.as_str() {
            "size" => size = parse_size(value)?,
            _ => return Err(StorageError::Option(format!("unknown option {key} for vfs"))),
        }
    }
    Ok(size)
}

impl Vfs {
    /// Gives the size that a layer may have, 0 for any.
    fn check_create_options(&self, options: &CreateOptions) -> Result<i64, StorageError> {
        let refused = |text: String| Err(StorageError::Option(text));
        if !options.mount_label.is_empty() {
            return Err(StorageError::MountLabel);
        }
        if !options.writable {
            if options.storage_opt.is_empty() {
                return Ok(0);
            }
            return refused(
                "--storage-opt is not supported for vfs on read-only layers".to_owned(),
            );
        }
        let mut size = self.size;
        for (key, value) in &options.storage_opt {
            if key != "size" {
                return refused(format!("Storage opt {key} not supported"));
            }
            size = parse_size(value)?;
        }
        if size > 0 && self.quotas.is_none() {
            return refused(NO_QUOTA.to_owned());
        }
        Ok(size)
    }
}
