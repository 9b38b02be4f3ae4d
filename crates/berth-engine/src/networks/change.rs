//! Creating, removing and joining networks: refused, in Docker's words where the network is one of
//! the predefined.

use berth_networks::NetworkError;

use crate::{Engine, EngineError};

impl Engine {
    /// `POST /networks/create`.
    pub fn create_network(&self, name: &str) -> Result<(), EngineError> {
        if matches!(name, "bridge" | "host" | "none") {
            return Err(NetworkError::CreatePredefined { name: name.to_owned() }.into());
        }
        Err(unsupported("creating networks"))
    }

    /// `DELETE /networks/{id}`.
    pub fn remove_network(&self, reference: &str) -> Result<(), EngineError> {
        let network = self.networks().find(reference)?;
        Err(NetworkError::RemovePredefined { name: network.name }.into())
    }

    /// `POST /networks/{id}/connect`.
    pub fn connect_network(&self, reference: &str) -> Result<(), EngineError> {
        self.networks().find(reference)?;
        Err(unsupported("connecting a running container to a network"))
    }

    /// `POST /networks/{id}/disconnect`.
    pub fn disconnect_network(&self, reference: &str) -> Result<(), EngineError> {
        self.networks().find(reference)?;
        Err(unsupported("disconnecting a container from a network"))
    }
}

fn unsupported(feature: &str) -> EngineError {
    NetworkError::Unsupported { feature: feature.to_owned() }.into()
}
