//! Removing images and their names.

use berth_api::image::ImageDeleteItem;
use berth_images::ImageError;
use berth_images::remove::{Action, Removal, RemoveOptions};

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Removes a name, and the image with its last one; or an image by its id.
    pub async fn remove_image(
        &self,
        name: &str,
        options: RemoveOptions,
    ) -> Result<Vec<ImageDeleteItem>, EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            berth_fs::steps::reached("rmi.staged");
            let users = engine.image_users();
            let removal = engine.db().write(|tx| {
                let removal = engine.images().remove(tx, &name, options, &users)?;
                berth_fs::steps::reached("rmi.before-record");
                Ok::<_, ImageError>(removal)
            })?;
            berth_fs::steps::reached("rmi.after-record");
            Ok(engine.after_removal(&removal))
        })
        .await
    }

    /// Takes the bytes of removed layers away and tells of it all. The records are gone by now, so
    /// what fails here is only debris, which the next start finds.
    pub(super) fn after_removal(&self, removal: &Removal) -> Vec<ImageDeleteItem> {
        if let Err(error) = self.layers().purge(&removal.layers) {
            tracing::warn!(error = %berth_types::kind::chain(&error), "layers left behind");
        }
        berth_fs::steps::reached("rmi.renamed");
        if !removal.layers.is_empty() {
            self.reap_later();
        }
        self.publish_actions(&removal.actions);
        removal.actions.iter().map(item).collect()
    }
}

fn item(action: &Action) -> ImageDeleteItem {
    match action {
        Action::Untagged { reference, .. } => ImageDeleteItem::untagged(reference.familiar()),
        Action::Deleted(id) => ImageDeleteItem::deleted(id.as_str()),
        Action::DeletedLayer(chain) => ImageDeleteItem::deleted(chain.as_str()),
    }
}
