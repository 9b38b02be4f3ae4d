//! `DELETE /volumes/{name}`.

use std::sync::Arc;

use berth_volumes::VolumeError;

use crate::{Engine, EngineError, blocking};

/// What to do about a volume that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The request fails.
    Fail,
    /// It is as asked.
    Ignore,
}

impl Engine {
    /// Removes a volume that no container refers to.
    pub async fn remove_volume(&self, name: String, missing: Missing) -> Result<(), EngineError> {
        let store = Arc::clone(self.volumes());
        match blocking(move || store.remove(&name)).await {
            Ok(volume) => {
                let driver = [("driver", volume.driver.as_str())];
                self.events().publish("volume", "destroy", &volume.name, driver);
                Ok(())
            }
            Err(VolumeError::NotFound { .. }) if missing == Missing::Ignore => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
