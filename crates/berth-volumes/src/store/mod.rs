//! The volumes of one data root.

mod attach;
mod create;
mod locks;
mod populate;
mod prune;
mod records;
mod recover;
mod refs;
mod remove;
mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use berth_db::{Db, Schema};
use berth_types::{Owner, Timestamp};

pub use create::Staged;
pub use prune::Pruned;
pub use recover::Recovered;

use crate::names::{self, Entry, VolumePaths};
use crate::{VolumeError, VolumeFilter};

/// The tables of the volume store.
pub const SCHEMA: Schema = Schema {
    name: "volumes",
    migrations: &["CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        driver TEXT NOT NULL,
        labels TEXT NOT NULL,
        options TEXT NOT NULL,
        created INTEGER NOT NULL,
        anonymous INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE volume_refs (
        volume TEXT NOT NULL,
        container TEXT NOT NULL,
        destination TEXT NOT NULL,
        PRIMARY KEY (volume, container, destination)
    ) WITHOUT ROWID;
    CREATE INDEX volume_refs_container ON volume_refs (container);"],
};

/// The label of a volume whose name berth made up.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// The name of the only driver.
pub(crate) const LOCAL: &str = "local";

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Empty: berth makes one up, and the volume is anonymous.
    pub name: String,
    /// Empty: the local driver, or the one an existing volume has.
    pub driver: String,
    /// Driver options (`type`, `device`, `o`, `size`).
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the name was made up by berth.
    pub anonymous: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options as given.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether berth made its name up.
    pub anonymous: bool,
    /// The directory with the content.
    pub mountpoint: PathBuf,
}

/// That a container uses a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeRef {
    /// The volume's name.
    pub volume: String,
    /// The container's full id.
    pub container: String,
    /// Where the container has it.
    pub destination: String,
}

/// The volumes of one data root.
#[derive(Debug)]
pub struct VolumeStore {
    root: PathBuf,
    db: Arc<Db>,
    /// Whose new volumes are.
    owner: Owner,
    busy: locks::NameLocks,
    /// Volumes with a mount of their own, and the containers that use it.
    mounted: Mutex<HashMap<String, Vec<String>>>,
}

impl VolumeStore {
    /// Opens the store whose directories are in `root` (`<data-root>/volumes`), which is created
    /// when missing.
    pub fn open(root: &Path, db: Arc<Db>) -> Result<Self, VolumeError> {
        Self::open_for(root, db, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `owner` on the host.
    pub fn open_for(root: &Path, db: Arc<Db>, owner: Owner) -> Result<Self, VolumeError> {
        berth_fs::atomic::create_dir_durable(root, 0o701)
            .map_err(VolumeError::io("create the directory", root))?;
        Ok(Self {
            root: root.to_owned(),
            db,
            owner,
            busy: locks::NameLocks::default(),
            mounted: Mutex::new(HashMap::new()),
        })
    }

    /// The volume of that name.
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        self.find(name)?.ok_or_else(|| VolumeError::NotFound { name: name.to_owned() })
    }

    /// Every volume that the filter takes, by name.
    pub fn list(&self, filter: &VolumeFilter) -> Result<Vec<Volume>, VolumeError> {
        let mut volumes = self.db.read(records::all)?;
        for volume in &mut volumes {
            volume.mountpoint = self.paths(&volume.name).data;
        }
        self.add_discovered(&mut volumes)?;
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let used = if filter.wants_use() { Some(self.db.read(records::used_names)?) } else { None };
        volumes.retain(|volume| {
            let in_use = used.as_ref().map(|used| used.contains(&volume.name));
            filter.takes(volume, in_use)
        });
        Ok(volumes)
    }

    /// Runs `work` on a volume's directory while nobody makes, mounts or removes the volume. `None`
    /// when there is none.
    pub fn alone_with<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> T,
    ) -> Result<Option<T>, VolumeError> {
        let _held = self.busy.hold(&[name]);
        Ok(self.find(name)?.map(|_| work(&self.paths(name).home)))
    }

    /// In a copy of the records: forgets a volume.
    pub fn forget(&self, tx: &berth_db::Tx<'_>, name: &str) -> Result<(), VolumeError> {
        Ok(records::delete(tx, name)?)
    }

    /// The volume of that name, with or without a record.
    fn find(&self, name: &str) -> Result<Option<Volume>, VolumeError> {
        let paths = self.paths(name);
        let recorded = self.db.read(|conn| records::one(conn, name))?;
        if let Some(mut volume) = recorded {
            volume.mountpoint = paths.data;
            return Ok(Some(volume));
        }
        if !crate::name::is_valid(name) {
            return Ok(None);
        }
        discovered(name, &paths)
    }

    fn paths(&self, name: &str) -> VolumePaths {
        VolumePaths::new(&self.root, name)
    }

    /// Adds the directories that no record knows.
    fn add_discovered(&self, volumes: &mut Vec<Volume>) -> Result<(), VolumeError> {
        let known: HashSet<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
        for entry in self.entries()? {
            if let Entry::Volume(name) = names::classify(&entry)
                && !known.contains(name)
                && let Some(volume) = discovered(name, &self.paths(name))?
            {
                volumes.push(volume);
            }
        }
        Ok(())
    }

    /// The names of everything in the store's directory.
    fn entries(&self) -> Result<Vec<String>, VolumeError> {
        let failed = || VolumeError::io("read the directory", &self.root);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }
}

/// A directory with a volume's name and a `_data` in it.
fn discovered(name: &str, paths: &VolumePaths) -> Result<Option<Volume>, VolumeError> {
    let is_dir = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.is_dir());
    match is_dir(&paths.data) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(VolumeError::io("examine", &paths.data)(error)),
    }
    let meta = std::fs::metadata(&paths.home).map_err(VolumeError::io("examine", &paths.home))?;
    Ok(Some(Volume {
        name: name.to_owned(),
        driver: LOCAL.to_owned(),
        labels: BTreeMap::new(),
        options: crate::options::read_file(&paths.options)?,
        created: Timestamp::from_unix(meta.ctime(), 0).unwrap_or_default(),
        anonymous: false,
        mountpoint: paths.data.clone(),
    }))
}
