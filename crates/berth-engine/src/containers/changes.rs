//! What a container changed of its image.

use std::sync::Arc;

use berth_api::container::Change;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::metrics::Action;

impl Engine {
    /// The changed paths, parents before what is in them.
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.registry().find(name)?;
        let (layers, id) = (Arc::clone(self.layers()), container.id().clone());
        let timer = self.counted().begin(Action::Changes);
        let changes =
            self.with_layer(&container, move |reach| Ok(layers.changes(&id, reach)?)).await?;
        timer.done();
        let message = |change: berth_layers::Change| Change {
            path: change.path.to_string_lossy().into_owned(),
            kind: change.kind as u8,
        };
        Ok(changes.into_iter().map(message).collect())
    }
}
