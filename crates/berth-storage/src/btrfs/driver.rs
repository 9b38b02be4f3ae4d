//! The driver's calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use berth_sys::{btrfs, fsinfo};
use berth_types::{LayerId, Owner, size};

use super::destroy::destroy;
use super::layout::{Quotas, SUBVOLUMES, is_committed, set_committed};
use crate::error::io_at;
use crate::home::{Home, make_passage};
use crate::options::{key_value, parse_size};
use crate::{
    Access, CreateOptions, LayerState, NativeDiff, Prepared, StorageDriver, StorageError, Upkeep,
};

pub(crate) const NAME: &str = "btrfs";

/// The driver over one home directory.
#[derive(Debug)]
pub struct Btrfs {
    pub(super) home: Home,
    pub(super) quotas: Quotas,
    min_space: u64,
}

impl Btrfs {
    /// Opens the driver whose home is `dir`, creating it when it is missing, if it is on btrfs.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        let parent = dir.parent().unwrap_or(dir);
        let test_dir = if dir.try_exists().map_err(io_at("look at", dir))? { dir } else { parent };
        if fsinfo::fs_name(test_dir).map_err(io_at("look at", test_dir))? != NAME {
            return Err(StorageError::Prerequisites);
        }
        let min_space = parse_options(options)?;
        make_passage(dir, root)?;
        let home = Home::open_with(NAME, &dir.join(SUBVOLUMES), root, destroy)?;
        let quotas = Quotas::open(dir, min_space.unwrap_or(0))?;
        if min_space.is_some() {
            quotas.enable()?;
        }
        Ok(Self { home, quotas, min_space: min_space.unwrap_or(0) })
    }

    /// What `--storage-opt` asks of a new layer, by Docker's rules and in its words. Unlike
    /// Docker, what is unknown is refused without a size as well.
    fn wanted_size(&self, options: &CreateOptions) -> Result<Option<u64>, StorageError> {
        if !options.mount_label.is_empty() {
            return Err(StorageError::MountLabel);
        }
        let mut wanted = None;
        for (key, value) in &options.storage_opt {
            if !key.eq_ignore_ascii_case("size") {
                let key = key.to_lowercase();
                return Err(StorageError::Option(format!("Unknown option {key}")));
            }
            wanted = Some(parse_size(value)?);
        }
        let Some(bytes) = wanted else { return Ok(None) };
        let bytes = u64::try_from(bytes).unwrap_or(0);
        if bytes == 0 {
            let text = format!("btrfs: invalid storage size: {}", human(bytes));
            return Err(StorageError::Option(text));
        }
        if bytes < self.min_space {
            let least = human(self.min_space);
            let text = format!("btrfs: storage size cannot be less than {least}");
            return Err(StorageError::Option(text));
        }
        Ok(Some(bytes))
    }

    fn make(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        size: Option<u64>,
    ) -> Result<(), StorageError> {
        if let Some(size) = size {
            // First: whoever finds the layer after a power cut finds its limit too.
            self.quotas.set(id, size)?;
        }
        match parent {
            Some(parent) => self.make_snapshot(id, parent)?,
            None => self.make_empty(id)?,
        }
        match size {
            Some(_) => self.quotas.apply(id, &self.home.layer(id)),
            None => Ok(()),
        }
    }

    fn make_snapshot(&self, id: &LayerId, parent: &LayerId) -> Result<(), StorageError> {
        let source = self.home.layer(parent);
        let layers = self.open_layers()?;
        let source = File::open(&source).map_err(io_at("open", source))?;
        btrfs::snapshot(source, layers, id.as_str().as_ref())
            .map_err(io_at("create", self.home.layer(id)))
    }

    fn make_empty(&self, id: &LayerId) -> Result<(), StorageError> {
        let staged = self.home.stage(id)?;
        let name = staged.file_name().unwrap_or_default();
        btrfs::create_subvolume(self.open_layers()?, name).map_err(io_at("create", &staged))?;
        rustix::fs::chmod(&staged, 0o755.into()).map_err(io_at("set the mode of", &staged))?;
        self.home.own_root(&staged)?;
        self.home.publish(id)
    }

    fn open_layers(&self) -> Result<File, StorageError> {
        File::open(self.home.dir()).map_err(io_at("open", self.home.dir()))
    }

    /// Takes away what a failed creation made.
    fn undo_creation(&self, id: &LayerId) {
        self.home.stop_creating(id);
        if let Err(error) = self.remove(id) {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, layer = %id, "a layer that was not wanted stays");
        }
    }
}

impl StorageDriver for Btrfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        vec![("Btrfs".to_owned(), String::new())]
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
        let size = self.wanted_size(options)?;
        self.home.check_new(id)?;
        if let Some(parent) = parent {
            self.home.check(parent)?;
        }
        let made = self.make(id, parent, size);
        if made.is_err() {
            self.undo_creation(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        let root = self.home.layer(id);
        if access == Access::Write {
            if is_committed(&root)? {
                return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
            }
            self.quotas.apply(id, &root)?;
        }
        Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() })
    }

    fn release(&self, _id: &LayerId) -> Result<(), StorageError> {
        Ok(())
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        set_committed(&self.home.layer(id), true)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.detach(id)?;
        self.quotas.clear(id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        let any = !self.home.detached()?.is_empty();
        let reaped = self.home.reap();
        if any {
            self.quotas.recount();
        }
        reaped
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let mut found = Vec::new();
        for id in self.home.list()? {
            let path = self.home.layer(&id);
            if !btrfs::is_subvolume(&path).map_err(io_at("look at", &path))? {
                continue;
            }
            let state = match File::open(&path).and_then(btrfs::is_read_only) {
                Ok(true) => LayerState::Committed,
                Ok(false) => LayerState::Active,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_at("look at", path)(error)),
            };
            found.push((id, state));
        }
        Ok(found)
    }

    fn recover(&self, _keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.clean_up()
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.home.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.home.check(id)?;
        let path = self.home.layer(id);
        let committed = is_committed(&path)?;
        // The kernel moves no read-only directory elsewhere.
        set_committed(&path, false)?;
        let moved = self.home.set_aside(id, lost_and_found);
        set_committed(moved.as_ref().unwrap_or(&path), committed)?;
        let moved = moved?;
        self.quotas.clear(id)?;
        Ok(moved)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        None
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }
}

impl Upkeep for Btrfs {
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.home.replace(id, new)
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}

/// Gives the smallest size that a container may ask for, if one is set.
fn parse_options(options: &[String]) -> Result<Option<u64>, StorageError> {
    let mut min_space = None;
    for option in options {
        let (key, value) = key_value(option)?;
        match key.as_str() {
            "btrfs.min_space" => min_space = Some(u64::try_from(parse_size(value)?).unwrap_or(0)),
            _ => return Err(StorageError::Option(format!("Unknown option {key}"))),
        }
    }
    Ok(min_space)
}

fn human(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    size::human(bytes as f64)
}
