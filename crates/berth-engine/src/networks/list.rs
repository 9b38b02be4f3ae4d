//! `GET /networks`.

use berth_api::Filters;
use berth_api::network::Network;
use berth_networks::NetworkFilter;

use super::LIST_FILTERS;
use crate::volumes::by_key;
use crate::{Engine, EngineError};

impl Engine {
    /// The networks that the filters take, by name, without their containers.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<Network>, EngineError> {
        let filter = NetworkFilter::parse(&by_key(filters, LIST_FILTERS))?;
        Ok(self.networks().list(&filter).into_iter().map(super::shown).collect())
    }
}
