//! Storage drivers: layers on a backing store.
//!
//! A driver prepares and describes; it never mounts for its callers. Records of what a layer
//! *is* live in other crates: a driver knows ids, parents and bytes.

#![forbid(unsafe_code)]

pub mod aufs;
pub mod btrfs;
mod delete;
pub mod devicemapper;
mod driver;
mod error;
pub mod fuse_overlayfs;
mod home;
mod markers;
mod mounted;
mod options;
pub mod overlay;
pub mod overlay2;
mod overlayfs;
mod programs;
mod quota;
pub mod select;
mod stack;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
mod thin_pool;
pub mod transfer;
#[cfg(any(test, feature = "testing"))]
pub mod twin;
pub mod vfs;
pub mod zfs;

pub use driver::{
    Access, CreateOptions, LayerState, MountPlan, NativeDiff, Prepared, StorageDriver, Teardown,
    Upkeep,
};
pub use error::StorageError;
pub use mounted::Mounted;
pub use select::{Environment, Mapping, SelectError, Selection};
pub use thin_pool::{
    DeviceKind, Level, Mapped, PoolDevice, PoolLayout, PoolUsage, Space, Tell, ThinDevices,
    ThinPool,
};
