//! Messages about the engine itself.

mod df;
mod info;
mod stats;
mod version;

pub use df::{BuildCache, BuildPruneReport, DiskUsage};
pub use info::{
    AddressPool, Commit, FirewallInfo, IndexInfo, Info, Plugins, RegistryConfig, RuntimeInfo,
    SwarmInfo,
};
pub use stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    ThrottlingData,
};
pub use version::{Component, Platform, Version};
