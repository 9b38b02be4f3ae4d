//! `POST /networks/prune`.

use berth_api::Filters;
use berth_api::json::List;
use berth_api::network::NetworkPruneReport;
use berth_types::Timestamp;

use crate::{Engine, EngineError};

impl Engine {
    /// Removes nothing: predefined networks stay, and there are no others.
    pub fn prune_networks(&self, filters: &Filters) -> Result<NetworkPruneReport, EngineError> {
        filters.until(Timestamp::now())?;
        self.events().publish("network", "prune", "", [("reclaimed", "0")]);
        Ok(NetworkPruneReport { networks_deleted: List::null() })
    }
}
