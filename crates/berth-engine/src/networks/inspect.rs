//! `GET /networks/{id}`.

use berth_api::network::{Network, NetworkEndpoint};
use berth_networks::Endpoint;

use crate::{Engine, EngineError};

impl Engine {
    /// One network by id, name or prefix of the id, with the containers that run on it.
    pub fn inspect_network(&self, reference: &str) -> Result<Network, EngineError> {
        let network = self.networks().find(reference)?;
        let endpoints = self.networks().endpoints(&network.id);
        let mut shown = super::shown(network);
        for endpoint in endpoints {
            let Some(container) = self.registry().by_id(&endpoint.container) else { continue };
            let id = endpoint.container.to_string();
            shown.containers.insert(id, member(&container.name(), &endpoint));
        }
        Ok(shown)
    }
}

fn member(name: &str, endpoint: &Endpoint) -> NetworkEndpoint {
    let address = endpoint.address.map(|address| format!("{address}/{}", endpoint.prefix));
    NetworkEndpoint {
        name: name.trim_start_matches('/').to_owned(),
        endpoint_id: endpoint.id.to_string(),
        mac_address: endpoint.mac.clone(),
        ipv4_address: address.unwrap_or_default(),
        ipv6_address: String::new(),
    }
}
