//! How an image was made.

use berth_api::image::HistoryItem;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// The steps that made an image, newest first.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let image = engine.images().resolve(&name)?;
            Ok(engine.images().history(&image)?)
        })
        .await
    }
}
