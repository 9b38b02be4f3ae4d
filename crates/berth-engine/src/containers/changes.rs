//! What a container changed of its image.

use berth_api::container::Change;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// The changed paths, parents before what is in them.
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.registry().find(name)?;
        let layers = std::sync::Arc::clone(self.layers());
        let changes = blocking(move || layers.changes(container.id())).await?;
        let message = |change: berth_layers::Change| Change {
            path: change.path.to_string_lossy().into_owned(),
            kind: change.kind as u8,
        };
        Ok(changes.into_iter().map(message).collect())
    }
}
