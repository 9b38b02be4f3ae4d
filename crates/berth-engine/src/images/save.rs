//! Archives of images for clients.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::pieces::{ByteStream, pieces};

impl Engine {
    /// An archive of these images, made while it is read.
    pub async fn save_images(&self, names: Vec<String>) -> Result<ByteStream, EngineError> {
        let engine = self.clone();
        let saving = blocking(move || engine.images().save(&names)).await?;
        let (mut writer, stream) = pieces();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let written = saving.write_to(&mut writer).map_err(EngineError::from);
            if written.is_ok() {
                for id in saving.images() {
                    engine.publish_image("save", id, id.as_str());
                }
            }
            writer.finish(written);
        });
        Ok(stream)
    }
}
