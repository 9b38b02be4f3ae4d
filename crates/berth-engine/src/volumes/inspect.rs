//! `GET /volumes/{name}`.

use std::sync::Arc;

use berth_api::volume::Volume;

use crate::{Engine, EngineError, blocking};

impl Engine {
    /// One volume.
    pub async fn inspect_volume(&self, name: String) -> Result<Volume, EngineError> {
        let store = Arc::clone(self.volumes());
        Ok(super::shown(blocking(move || store.get(&name)).await?))
    }
}
