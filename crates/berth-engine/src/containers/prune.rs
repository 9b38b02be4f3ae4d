//! Removing every container that does not run.

use berth_api::container::ContainerPruneReport;
use berth_api::filters::{Filters, PRUNE_KEYS};
use berth_api::json::List;
use berth_types::Timestamp;

use super::list::Sizes;
use super::remove;
use super::state::Status;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Removes the containers that do not run and that the filters take.
    pub async fn prune_containers(
        &self,
        filters: Filters,
    ) -> Result<ContainerPruneReport, EngineError> {
        let Ok(_only) = self.prunes().containers.try_lock() else {
            return Err(EngineError::PruneRunning);
        };
        let filters = filters.accept(PRUNE_KEYS)?;
        let until = filters.until(Timestamp::now())?;
        let engine = self.clone();
        let sizes = blocking(move || Sizes::read(&engine)).await?;
        let mut claimed = Vec::new();
        let mut deleted = Vec::new();
        let mut reclaimed = 0;
        for container in self.registry().all() {
            let taken = {
                let live = container.live();
                matches!(live.state.status, Status::Created | Status::Exited | Status::Dead)
                    && until.is_none_or(|until| live.record.created <= until)
                    && filters.prunes(&live.record.config.labels)
            };
            if !taken {
                continue;
            }
            // Started or removed by somebody else in between: it is not ours to remove.
            let Ok(ours) = remove::claim(&container).await else { continue };
            reclaimed += u64::try_from(sizes.of(self, &container).0).unwrap_or(0);
            deleted.push(container.id().to_string());
            claimed.push(ours);
        }
        self.remove_claimed(claimed, false).await?;
        let text = reclaimed.to_string();
        self.events().publish("container", "prune", "", [("reclaimed", text.as_str())]);
        let containers_deleted =
            if deleted.is_empty() { List::null() } else { List::from(deleted) };
        Ok(ContainerPruneReport { containers_deleted, space_reclaimed: reclaimed })
    }
}
