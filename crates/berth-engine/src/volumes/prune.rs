//! `POST /volumes/prune`.

use std::sync::Arc;

use berth_api::volume::VolumePruneReport;
use berth_api::{ApiVersion, Filters};
use berth_volumes::PruneFilter;

use super::PRUNE_FILTERS;
use crate::{Engine, EngineError, blocking};

impl Engine {
    /// Removes the volumes that nobody uses: the anonymous ones, or all where the filter or an old
    /// API version says so.
    pub async fn prune_volumes(
        &self,
        filters: Filters,
        version: ApiVersion,
    ) -> Result<VolumePruneReport, EngineError> {
        let Ok(_one) = self.prunes().volumes.try_lock() else {
            return Err(EngineError::PruneRunning);
        };
        let all_by_default = !version.prunes_anonymous_volumes_only();
        let given = super::by_key(&filters, PRUNE_FILTERS);
        let filter = PruneFilter::parse(&given, all_by_default)?;
        let store = Arc::clone(self.volumes());
        let pruned = blocking(move || store.prune(&filter)).await?;
        for name in &pruned.removed {
            self.events().publish("volume", "destroy", name, [("driver", "local")]);
        }
        let reclaimed = pruned.reclaimed.to_string();
        self.events().publish("volume", "prune", "", [("reclaimed", reclaimed.as_str())]);
        Ok(VolumePruneReport { volumes_deleted: pruned.removed, space_reclaimed: pruned.reclaimed })
    }
}
