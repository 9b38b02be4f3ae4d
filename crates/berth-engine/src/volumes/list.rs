//! `GET /volumes`.

use std::sync::Arc;

use berth_api::Filters;
use berth_api::json::List;
use berth_api::volume::VolumeListResponse;
use berth_volumes::VolumeFilter;

use super::LIST_FILTERS;
use crate::{Engine, EngineError, blocking};

impl Engine {
    /// The volumes that the filters take, by name.
    pub async fn list_volumes(&self, filters: Filters) -> Result<VolumeListResponse, EngineError> {
        let filter = VolumeFilter::parse(&super::by_key(&filters, LIST_FILTERS))?;
        let store = Arc::clone(self.volumes());
        let found = blocking(move || store.list(&filter)).await?;
        let volumes = found.into_iter().map(super::shown).collect();
        Ok(VolumeListResponse { volumes, warnings: List::null() })
    }
}
