//! What everything costs on disk, from records.

use std::collections::BTreeMap;

use berth_api::daemon::DiskUsage;
use berth_api::json::List;
use berth_api::options::{DfTypes, ListOptions};
use berth_api::volume::{Volume, VolumeUsage};
use berth_types::ImageId;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// What the asked kinds of objects cost. The others are left `null`.
    pub async fn df(&self, types: DfTypes) -> Result<DiskUsage, EngineError> {
        let mut usage = DiskUsage::default();
        if types.containers {
            let all = ListOptions { all: true, size: true, ..ListOptions::default() };
            usage.containers = List::from(self.list_containers(all).await?);
        }
        let engine = self.clone();
        blocking(move || {
            if types.images {
                engine.df_images(&mut usage)?;
            }
            if types.volumes {
                usage.volumes = List::from(engine.df_volumes()?);
            }
            if types.build_cache {
                usage.build_cache = List::from(engine.df_build_cache()?);
            }
            Ok(usage)
        })
        .await
    }

    fn df_images(&self, usage: &mut DiskUsage) -> Result<(), EngineError> {
        let mut users: BTreeMap<ImageId, i64> = BTreeMap::new();
        for container in self.registry().all() {
            if let Some(image) = container.live().record.image.clone() {
                *users.entry(image).or_default() += 1;
            }
        }
        let options = berth_images::list::ListOptions {
            all: false,
            filters: berth_api::Filters::default(),
            shared_size: true,
        };
        let count = |image: &ImageId| users.get(image).copied().unwrap_or(0);
        usage.images = List::from(self.images().list(&options, &count)?);
        usage.layers_size = self.images().layers_size()?;
        Ok(())
    }

    fn df_volumes(&self) -> Result<Vec<Volume>, EngineError> {
        let mut users: BTreeMap<String, i64> = BTreeMap::new();
        let mut counted = std::collections::BTreeSet::new();
        for reference in self.volumes().refs()? {
            // A container with a volume at two places counts once.
            if counted.insert((reference.volume.clone(), reference.container.clone())) {
                *users.entry(reference.volume).or_default() += 1;
            }
        }
        let filter = berth_volumes::VolumeFilter::default();
        let mut volumes = Vec::new();
        for volume in self.volumes().list(&filter)? {
            let size = self.volumes().usage(&volume)?;
            let ref_count = users.get(&volume.name).copied().unwrap_or(0);
            let size = size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX));
            let mut message = crate::volumes::shown(volume);
            message.usage_data = Some(VolumeUsage { ref_count, size });
            volumes.push(message);
        }
        Ok(volumes)
    }
}
