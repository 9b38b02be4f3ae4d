//! Removing every image that nothing needs.

use std::collections::HashMap;

use berth_api::filters::Filters;
use berth_api::image::ImagePruneReport;
use berth_api::json::List;
use berth_images::ImageError;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Removes the images that nothing needs and that the filters take.
    pub async fn prune_images(&self, filters: Filters) -> Result<ImagePruneReport, EngineError> {
        let Ok(_only) = self.prunes().images.try_lock() else {
            return Err(EngineError::PruneRunning);
        };
        let engine = self.clone();
        let report = blocking(move || engine.prune_images_now(&filters)).await?;
        let reclaimed = report.space_reclaimed.to_string();
        self.events().publish("image", "prune", "", [("reclaimed", reclaimed.as_str())]);
        Ok(report)
    }

    fn prune_images_now(&self, filters: &Filters) -> Result<ImagePruneReport, EngineError> {
        let users = self.image_users();
        let layers = self.layers().list()?;
        let sizes: HashMap<_, _> = layers.into_iter().map(|l| (l.chain, l.size)).collect();
        let removal = self.db().write(|tx| {
            let removal = self.images().prune(tx, filters, &users)?;
            Ok::<_, ImageError>(removal)
        })?;
        let chains = removal.layers.iter().filter_map(|layer| layer.chain.as_ref());
        let layers: u64 = chains.filter_map(|chain| sizes.get(chain)).sum();
        let space_reclaimed = layers + self.registries().clear_idle();
        let items = self.after_removal(&removal);
        let images_deleted = if items.is_empty() { List::null() } else { items.into() };
        Ok(ImagePruneReport { images_deleted, space_reclaimed })
    }
}
