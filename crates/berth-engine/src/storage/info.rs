//! `berth storage info`: what there is, where, and what it takes.

use berth_api::options::ListOptions;
use berth_sys::fsinfo;
use serde_json::{Value, json};

use crate::blocking::blocking;
use crate::containers::record;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// The storage driver, its file system, how much there is of what, and what that takes: by Docker's
    /// rule (`Size`), and on the disk (`Allocated`) as last measured.
    pub async fn storage_info(&self) -> Result<Value, EngineError> {
        let all = ListOptions { all: true, size: true, ..ListOptions::default() };
        let containers = self.list_containers(all).await?;
        let written: i64 = containers.iter().map(|container| container.size_rw.max(0)).sum();
        let engine = self.clone();
        blocking(move || engine.storage_info_now(containers.len(), written)).await
    }

    fn storage_info_now(&self, containers: usize, written: i64) -> Result<Value, EngineError> {
        let driver = self.layers().driver();
        let root = &self.config().data_root;
        let (measured, under_way) = self.allocated();
        let allocated = measured.as_ref().map(|measured| measured.allocated);
        let volumes = self.volumes().list(&berth_volumes::VolumeFilter::default())?.len();
        Ok(json!({
            "Driver": driver.name(),
            "DriverStatus": driver.status(),
            "Pool": self.pool_usage(),
            "DataRoot": root,
            "FileSystem": file_system(root)?,
            "Images": {
                "Count": self.images().count()?,
                "Layers": self.layers().list()?.len(),
                "Size": self.images().layers_size()?,
                "Allocated": allocated.and_then(|allocated| allocated.images),
            },
            "Containers": {
                "Count": containers,
                "Size": written,
                "Allocated": allocated.and_then(|allocated| allocated.containers),
            },
            "Volumes": {
                "Count": volumes,
                "Size": allocated.map(|allocated| allocated.volumes_size),
                "Allocated": allocated.map(|allocated| allocated.volumes),
            },
            "Measured": measured.map(|measured| json!({
                "At": measured.at.to_string(),
                "AgeSeconds": measured.age().as_secs(),
                "TookMilliseconds": u64::try_from(measured.took.as_millis()).unwrap_or(u64::MAX),
            })),
            "Measuring": under_way,
            "Hidden": self.hidden_by_driver()?,
            "Problems": self.upkeep().problems(),
        }))
    }

    /// What other storage drivers have in this data root.
    fn hidden_by_driver(&self) -> Result<Vec<Value>, EngineError> {
        let own = self.layers().driver().name();
        let layers = self.layers().count_elsewhere()?;
        let images = self.images().count_by_driver()?;
        let containers = self.db().read(record::count_by_driver)?;
        let all = layers.iter().chain(&images).chain(&containers);
        let mut drivers: Vec<&str> = all.map(|(driver, _)| driver.as_str()).collect();
        drivers.sort_unstable();
        drivers.dedup();
        let count = |of: &[(String, u64)], driver: &str| {
            of.iter().find(|(name, _)| name == driver).map_or(0, |(_, count)| *count)
        };
        let hidden = drivers.into_iter().filter(|driver| *driver != own).map(|driver| {
            json!({
                "Driver": driver,
                "Images": count(&images, driver),
                "Layers": count(&layers, driver),
                "Containers": count(&containers, driver),
            })
        });
        Ok(hidden.collect())
    }
}

fn file_system(root: &std::path::Path) -> Result<Value, EngineError> {
    let kind = fsinfo::fs_name(root).map_err(EngineError::io("look at", root))?;
    let stat = rustix::fs::statvfs(root)
        .map_err(|error| EngineError::io("look at", root)(error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(json!({
        "Type": kind,
        "BytesTotal": bytes(stat.f_blocks),
        "BytesFree": bytes(stat.f_bavail),
        "InodesTotal": stat.f_files,
        "InodesFree": stat.f_favail,
    }))
}
