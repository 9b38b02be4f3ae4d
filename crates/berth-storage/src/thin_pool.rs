//! Drivers whose layers are on a thin pool: how full that is, and who is told.

use std::path::{Path, PathBuf};

use berth_types::LayerId;

use crate::{Prepared, StorageError};

/// What can be asked about the pool below.
///
/// Calls may come from several threads.
pub trait ThinPool: ThinDevices + Send + Sync {
    /// How full the pool is, by the kernel's word of this moment.
    fn usage(&self) -> Result<PoolUsage, StorageError>;
    /// Refuses when the pool takes no new layers.
    fn check_room(&self) -> Result<(), StorageError>;
    /// What the pool is made of.
    fn layout(&self) -> PoolLayout;
    /// Makes the files that the pool lies on so large, in bytes, and lets the pool have that at once.
    fn grow(&self, data: Option<u64>, metadata: Option<u64>) -> Result<(), StorageError>;
    /// Adds a disk to the volume group that the pool is in, and lets the pool have all of it: its
    /// metadata in proportion, the rest its data. With `wipe` whatever is on the disk is lost;
    /// without, one that has anything on it is refused. Goes on where an earlier call was stopped.
    fn extend(&self, device: &Path, wipe: bool) -> Result<(), StorageError>;
    /// Has `tell` called at each change of level from now on, from another thread: soon after it
    /// happened, whatever made it happen.
    fn on_change(&self, tell: Tell);
}

/// The devices on a pool, one by one. An id may be given as a beginning that is no other one's.
pub trait ThinDevices {
    /// All of them, by their numbers. What is mapped of each is not looked at.
    fn devices(&self) -> Result<Vec<PoolDevice>, StorageError>;
    /// One of them, with what is mapped of it.
    fn device(&self, id: &str) -> Result<PoolDevice, StorageError>;
    /// Makes a copy of a device as it is at this moment. It stays until it is removed.
    fn snapshot(&self, name: &str, of: &str) -> Result<PoolDevice, StorageError>;
    /// Removes a device that nothing needs: a snapshot, or what was left. `is_known` says, once the
    /// device is found, whether a layer is anybody's.
    fn remove_device(
        &self,
        id: &str,
        is_known: &dyn Fn(&LayerId) -> bool,
    ) -> Result<(), StorageError>;
    /// Activates a device, and says how to mount it at `target`, to be read.
    fn look_into(&self, id: &str, target: &Path) -> Result<Prepared, StorageError>;
    /// Lets the device go with its last user.
    fn let_go(&self, id: &str) -> Result<(), StorageError>;
}

/// A device on a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDevice {
    /// What it is called here.
    pub id: String,
    /// What it is for.
    pub kind: DeviceKind,
    /// The layer that it is.
    pub layer: Option<LayerId>,
    /// What it is called in `/dev/mapper`, while it is active.
    pub name: String,
    /// Its number in the pool.
    pub number: u32,
    /// Bytes that it looks like.
    pub size: u64,
    /// The change of the pool that made it.
    pub transaction: u64,
    /// How often it is open; `None` when it is not active.
    pub open_count: Option<u32>,
    /// What it has of the pool, if that was looked at.
    pub mapped: Option<Mapped>,
}

/// What a device has of its pool, in sectors of 512 bytes; what it shares with others counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// How many.
    pub sectors: u64,
    /// The highest of the device.
    pub highest: Option<u64>,
}

/// What a device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// What layers without a parent begin as.
    Base,
    /// A layer.
    Layer,
    /// A layer that is being made.
    Unfinished,
    /// A layer that was removed, and goes with its last user.
    Removed,
    /// A layer that no record knew.
    Aside,
    /// A copy that somebody asked for.
    Snapshot,
    /// What the next layer without a parent becomes.
    Spare,
}

impl DeviceKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Layer => "layer",
            Self::Unfinished => "unfinished",
            Self::Removed => "removed",
            Self::Aside => "aside",
            Self::Snapshot => "snapshot",
            Self::Spare => "spare",
        }
    }
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLayout {
    /// The pool's name.
    pub name: String,
    /// The file with the data, if it is one.
    pub data: Option<PathBuf>,
    /// The file with the metadata, if it is one.
    pub metadata: Option<PathBuf>,
}

/// Who is told of a pool's level.
pub type Tell = Box<dyn Fn(&PoolUsage) + Send + Sync>;

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub name: String,
    /// Bytes that it gives out at a time.
    pub block: u64,
    /// The worse of its data's and its metadata's.
    pub level: Level,
    /// What layers hold.
    pub data: Space,
    /// The pool's own records of that.
    pub metadata: Space,
}

impl PoolUsage {
    /// The fuller of the two, and its name.
    pub fn fuller(&self) -> (&'static str, &Space) {
        if self.metadata.permille() > self.data.permille() {
            ("metadata", &self.metadata)
        } else {
            ("data", &self.data)
        }
    }
}

/// Room of one kind, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// What is in use.
    pub used: u64,
    /// What the pool has.
    pub total: u64,
    /// What can still be written: less than the rest where the pool lies on a file, and its file
    /// system has less.
    pub room: u64,
    /// When it is full if it goes on as in the last minutes; `None` when it does not grow.
    pub seconds_to_full: Option<u64>,
}

impl Space {
    /// Thousandths in use, of what can be in use.
    pub fn permille(&self) -> u64 {
        let all = u128::from(self.used) + u128::from(self.room);
        let permille = (u128::from(self.used) * 1000).checked_div(all).unwrap_or(1000);
        u64::try_from(permille).unwrap_or(1000)
    }
}

/// How a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    #[default]
    Normal,
    /// Somebody should see to it.
    Warning,
    /// No new layers are made.
    Stop,
    /// Writes fail.
    Full,
    /// It does not answer, or has to be checked.
    Failed,
}

impl Level {
    /// All of them, from the best to the worst.
    pub const ALL: [Self; 5] = [Self::Normal, Self::Warning, Self::Stop, Self::Full, Self::Failed];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Stop => "stop",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_as_full_as_what_can_still_be_written_says() {
        #[rustfmt::skip]
        let table = [
            // used total room  permille
            (0,     100,  100,  0),
            (50,    100,  50,   500),
            (50,    100,  0,    1000),
            (999,   1000, 1,    999),
            (0,     0,    0,    1000),
        ];
        for (used, total, room, permille) in table {
            let space = Space { used, total, room, seconds_to_full: None };
            assert_eq!(space.permille(), permille, "{space:?}");
        }
    }
}
