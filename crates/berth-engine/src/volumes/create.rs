//! `POST /volumes/create`.

use std::sync::Arc;

use berth_api::volume::{Volume, VolumeCreateRequest};
use berth_volumes::{NewVolume, VolumeError};

use crate::{Engine, EngineError, blocking};

impl Engine {
    /// Creates a volume; one of that name and driver that exists is answered as it is.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<Volume, EngineError> {
        if request.cluster_volume_spec.is_some() {
            return Err(VolumeError::NotSwarm.into());
        }
        let new = NewVolume {
            name: request.name,
            driver: request.driver,
            options: request.driver_opts.into_map(),
            labels: request.labels.into_map(),
            anonymous: false,
        };
        let store = Arc::clone(self.volumes());
        let (volume, is_new) = blocking(move || store.create(&new)).await?;
        if is_new {
            let driver = [("driver", volume.driver.as_str())];
            self.events().publish("volume", "create", &volume.name, driver);
        }
        Ok(super::shown(volume))
    }
}
