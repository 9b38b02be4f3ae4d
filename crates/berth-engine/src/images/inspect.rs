//! All about one image.

use berth_api::image::ImageInspect;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// What is known about an image, with every field that any API version has.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let image = engine.images().resolve(&name)?;
            Ok(engine.images().inspect(&image)?)
        })
        .await
    }
}
