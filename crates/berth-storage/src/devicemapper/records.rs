//! The JSON files below `metadata/`, by Docker's names and keys, each replaced as a whole.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::atomic;
use berth_types::LayerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::DevicemapperError;
use crate::StorageError;
use crate::error::io_at;
use crate::home::{clear_temporaries, make_dir};

const BASE: &str = "base";
const SET: &str = "deviceset-metadata";
const TRANSACTION: &str = "transaction-metadata";
const CREATING: &str = ".berth-creating-";
const REMOVING: &str = ".berth-removing-";
const ASIDE: &str = ".berth-aside-";
const SNAPSHOT: &str = ".berth-snapshot-";
const SPARE: &str = ".berth-spare";

/// What a thin device is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The empty file system that layers without a parent begin as.
    Base,
    /// A layer.
    Layer(LayerId),
    /// A layer that is not finished.
    Creating(LayerId),
    /// A layer that was removed. The number tells several lives of one id apart.
    Removing(LayerId, u32),
    /// A layer that no record knew.
    Aside(LayerId, u32),
    /// What the next layer without a parent becomes.
    Spare,
    /// A copy that an administrator asked for, by the name that it was given.
    Snapshot(String),
}

/// Gives the file's name.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str(BASE),
            Self::Spare => f.write_str(SPARE),
            Self::Layer(id) => write!(f, "{id}"),
            Self::Creating(id) => write!(f, "{CREATING}{id}"),
            Self::Removing(id, again) => write!(f, "{REMOVING}{id}-{again}"),
            Self::Aside(id, again) => write!(f, "{ASIDE}{id}-{again}"),
            Self::Snapshot(name) => write!(f, "{SNAPSHOT}{name}"),
        }
    }
}

impl Role {
    fn parse(name: &str) -> Option<Self> {
        if name == BASE {
            return Some(Self::Base);
        }
        if name == SPARE {
            return Some(Self::Spare);
        }
        if let Some(id) = name.strip_prefix(CREATING) {
            return Some(Self::Creating(LayerId::parse(id).ok()?));
        }
        if let Some(name) = name.strip_prefix(SNAPSHOT) {
            return is_snapshot_name(name).then(|| Self::Snapshot(name.to_owned()));
        }
        let numbered = |prefix| {
            let (id, again) = name.strip_prefix(prefix)?.rsplit_once('-')?;
            Some((LayerId::parse(id).ok()?, again.parse().ok()?))
        };
        if let Some((id, again)) = numbered(REMOVING) {
            return Some(Self::Removing(id, again));
        }
        if let Some((id, again)) = numbered(ASIDE) {
            return Some(Self::Aside(id, again));
        }
        LayerId::parse(name).ok().map(Self::Layer)
    }
}

/// Letters, digits and `_.-` behind one of the first two; short enough for a file's name.
pub(super) fn is_snapshot_name(name: &str) -> bool {
    let others = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= 64
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(others)
}

/// A thin device.
#[expect(clippy::struct_field_names, reason = "they are the keys of the file")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    /// Its number in the pool.
    pub(super) device_id: u32,
    /// Bytes.
    pub(super) size: u64,
    /// The transaction that made it.
    pub(super) transaction_id: u64,
    /// Whether the base device has a file system; false for all others.
    pub(super) initialized: bool,
    /// Docker's mark of a device that waits to be deleted; here the file's name says it.
    pub(super) deleted: bool,
}

/// What is remembered of all devices together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeviceSet {
    pub(super) next_device_id: u32,
    #[serde(rename = "BaseDeviceUUID", default)]
    pub(super) uuid: String,
    #[serde(rename = "BaseDeviceFilesystem", default)]
    pub(super) fs: String,
}

/// The change that was begun last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transaction {
    pub(super) open_transaction_id: u64,
    /// The file's name, as far as Docker has names for it; empty for the base device.
    pub(super) device_hash: String,
    pub(super) device_id: u32,
}

/// The directory of the files.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(super) fn open(home: &Path) -> Result<Self, StorageError> {
        let dir = home.join("metadata");
        make_dir(&dir, 0o700)?;
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn device(&self, role: &Role) -> Result<Option<Device>, StorageError> {
        self.read(&role.to_string())
    }

    pub(super) fn set_device(&self, role: &Role, device: &Device) -> Result<(), StorageError> {
        self.write(&role.to_string(), device)
    }

    /// Whether there is such a device.
    pub(super) fn has(&self, role: &Role) -> Result<bool, StorageError> {
        let path = self.path(role);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_at("look at", path)(error)),
        }
    }

    /// Forgets a device, so that it stays forgotten. One that is not there is fine.
    pub(super) fn forget(&self, role: &Role) -> Result<(), StorageError> {
        let path = self.path(role);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => self.sync(),
        }
    }

    /// Gives a device another role, at once or not at all. [`sync`](Self::sync) makes it last.
    pub(super) fn turn(&self, from: &Role, to: &Role) -> Result<(), StorageError> {
        let from = self.path(from);
        fs::rename(&from, self.path(to)).map_err(io_at("rename", from))
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        atomic::sync_dir(&self.dir).map_err(io_at("sync", &self.dir))
    }

    /// The role that `make` gives with the first number that is free.
    pub(super) fn free(&self, make: impl Fn(u32) -> Role) -> Result<Role, StorageError> {
        for again in 0.. {
            let role = make(again);
            if !self.has(&role)? {
                return Ok(role);
            }
        }
        Ok(make(u32::MAX))
    }

    /// Removes files whose writing was interrupted.
    pub(super) fn clear_temporaries(&self) -> Result<(), StorageError> {
        clear_temporaries(&self.dir)
    }

    /// Every device that has a file. What others put here is left alone.
    pub(super) fn roles(&self) -> Result<Vec<Role>, StorageError> {
        let failed = || io_at("list", &self.dir);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let role = entry.file_name().to_str().and_then(Role::parse);
            if let Some(role) = role
                && entry.file_type().map_err(failed())?.is_file()
            {
                found.push(role);
            }
        }
        Ok(found)
    }

    /// Every device with its file's content.
    pub(super) fn devices(&self) -> Result<Vec<(Role, Device)>, StorageError> {
        let mut all = Vec::new();
        for role in self.roles()? {
            if let Some(device) = self.device(&role)? {
                all.push((role, device));
            }
        }
        Ok(all)
    }

    pub(super) fn set(&self) -> Result<DeviceSet, StorageError> {
        Ok(self.read(SET)?.unwrap_or_default())
    }

    pub(super) fn set_set(&self, set: &DeviceSet) -> Result<(), StorageError> {
        self.write(SET, set)
    }

    pub(super) fn transaction(&self) -> Result<Option<Transaction>, StorageError> {
        self.read(TRANSACTION)
    }

    pub(super) fn set_transaction(&self, begun: &Transaction) -> Result<(), StorageError> {
        self.write(TRANSACTION, begun)
    }

    /// After a roll-back, so that it is not done again.
    pub(super) fn forget_transaction(&self) -> Result<(), StorageError> {
        let path = self.dir.join(TRANSACTION);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => self.sync(),
        }
    }

    fn path(&self, role: &Role) -> PathBuf {
        self.dir.join(role.to_string())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StorageError> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("read", &path))?,
        };
        let parsed = serde_json::from_slice(&bytes);
        Ok(Some(parsed.map_err(|source| DevicemapperError::Record { path, source })?))
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StorageError> {
        let path = self.dir.join(name);
        let bytes = serde_json::to_vec(value).expect("plain fields become JSON");
        atomic::write(&path, &bytes).map_err(io_at("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_not_finished_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        for name in ["base", ".berth-tmp-158-84", "theirs"] {
            fs::File::create(records.dir.join(name)).unwrap();
        }
        records.clear_temporaries().unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&records.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["base", "theirs"]);
    }

    #[test]
    fn files_are_written_as_docker_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let device = Device {
            device_id: 1,
            size: 10_737_418_240,
            transaction_id: 1,
            initialized: true,
            deleted: false,
        };
        records.set_device(&Role::Base, &device).unwrap();
        assert_eq!(records.device(&Role::Base).unwrap(), Some(device));
        let set = DeviceSet { next_device_id: 21, uuid: "d346".to_owned(), fs: "xfs".to_owned() };
        records.set_set(&set).unwrap();
        let begun = Transaction {
            open_transaction_id: 37,
            device_hash: "6b88-init".to_owned(),
            device_id: 20,
        };
        records.set_transaction(&begun).unwrap();
        #[rustfmt::skip]
        let table = [
            ("base",                 r#"{"device_id":1,"size":10737418240,"transaction_id":1,"initialized":true,"deleted":false}"#),
            ("deviceset-metadata",   r#"{"next_device_id":21,"BaseDeviceUUID":"d346","BaseDeviceFilesystem":"xfs"}"#),
            ("transaction-metadata", r#"{"open_transaction_id":37,"device_hash":"6b88-init","device_id":20}"#),
        ];
        for (name, text) in table {
            assert_eq!(fs::read_to_string(dir.path().join("metadata").join(name)).unwrap(), text);
        }
        assert_eq!((records.set().unwrap(), records.transaction().unwrap()), (set, Some(begun)));
        records.forget_transaction().unwrap();
        records.forget_transaction().unwrap();
        assert_eq!(records.transaction().unwrap(), None);
    }

    #[test]
    fn names_say_what_a_device_is_for_and_foreign_files_are_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = LayerId::random();
        let roles = [
            Role::Base,
            Role::Spare,
            Role::Layer(id.clone()),
            Role::Layer(id.init()),
            Role::Creating(id.init()),
            Role::Removing(id.init(), 7),
            Role::Aside(id.clone(), 0),
            Role::Snapshot("before.update-1".to_owned()),
        ];
        for role in &roles {
            assert_eq!(Role::parse(&role.to_string()).as_ref(), Some(role));
        }
        for name in [
            ".tmp123",
            "json.migrated",
            "deviceset-metadata",
            "x",
            ".berth-removing-x-1",
            ".berth-snapshot-.x",
        ] {
            assert_eq!(Role::parse(name), None, "{name}");
            fs::File::create(records.dir().join(name)).unwrap();
        }
        fs::create_dir(records.dir().join(id.as_str())).unwrap();
        assert_eq!(records.roles().unwrap(), []);
        let device =
            Device { device_id: 1, size: 0, transaction_id: 0, initialized: false, deleted: false };
        let removing = |again| Role::Removing(id.clone(), again);
        assert_eq!(records.free(removing).unwrap(), removing(0));
        records.set_device(&removing(0), &device).unwrap();
        assert_eq!(records.free(removing).unwrap(), removing(1));
        fs::File::create(records.dir().join("base")).unwrap();
        assert!(records.devices().is_err(), "a damaged file is no missing one");
    }
}
