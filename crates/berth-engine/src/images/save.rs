//! Archives of images for clients.

use super::stream::archive;
use crate::blocking::blocking;
use crate::containers::ByteStream;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// An archive of these images, made while it is read.
    pub async fn save_images(&self, names: Vec<String>) -> Result<ByteStream, EngineError> {
        let engine = self.clone();
        let saving = blocking(move || engine.images().save(&names)).await?;
        let (mut writer, stream) = archive();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let written = saving.write_to(&mut writer).map_err(EngineError::from);
            match written {
                Ok(()) => {
                    for id in saving.images() {
                        engine.publish_image("save", id, id.as_str());
                    }
                }
                Err(error) => writer.fail(error),
            }
        });
        Ok(stream)
    }
}
