//! The list of images.

use std::collections::HashMap;

use berth_api::image::ImageSummary;
use berth_images::list::ListOptions;
use berth_types::ImageId;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// The images that the options ask for, newest first, with the number of their containers.
    pub async fn list_images(
        &self,
        options: ListOptions,
    ) -> Result<Vec<ImageSummary>, EngineError> {
        let mut users: HashMap<ImageId, i64> = HashMap::new();
        for user in self.image_users() {
            *users.entry(user.image).or_default() += 1;
        }
        let engine = self.clone();
        blocking(move || {
            let count = |id: &ImageId| users.get(id).copied().unwrap_or(0);
            Ok(engine.images().list(&options, &count)?)
        })
        .await
    }
}
