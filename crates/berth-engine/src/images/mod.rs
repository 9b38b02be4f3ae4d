//! Images: one module for each thing that can be asked of them.

mod history;
mod import;
mod inspect;
mod list;
mod load;
mod prune;
mod remove;
mod save;
mod stream;
mod tag;

use std::collections::BTreeMap;

use berth_images::remove::{Action, ImageUser};
use berth_types::ImageId;

pub use berth_images::list::ListOptions;
pub use berth_images::remove::RemoveOptions;
pub use import::ImportRequest;
pub use load::LoadOptions;
pub use stream::{Archive, Messages};
pub(crate) use stream::{MessageSender, messages};

use crate::engine::Engine;

impl Engine {
    /// Publishes an event of an image, with the labels that its configuration has.
    pub(crate) fn publish_image(&self, action: &str, id: &ImageId, name: &str) {
        let labels = match self.images().get(id) {
            Ok(image) => image.and_then(|image| image.config.labels().cloned()),
            Err(error) => {
                tracing::warn!(%id, error = %berth_types::kind::chain(&error), "image unreadable");
                None
            }
        };
        self.publish_labelled(action, id, name, labels.unwrap_or_default());
    }

    fn publish_labelled(
        &self,
        action: &str,
        id: &ImageId,
        name: &str,
        mut attributes: BTreeMap<String, String>,
    ) {
        attributes.insert("name".to_owned(), name.to_owned());
        self.events().publish_map("image", action, id.as_str(), attributes);
    }

    /// Publishes what a removal did, in its order. Images are known by their id here.
    fn publish_actions(&self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Untagged { image, labels, is_event: true, .. } => {
                    self.publish_labelled("untag", image, image.as_str(), labels.clone());
                }
                Action::Deleted(id) => {
                    self.publish_labelled("delete", id, id.as_str(), BTreeMap::new());
                }
                Action::Untagged { is_event: false, .. } | Action::DeletedLayer(_) => {}
            }
        }
    }

    /// The containers that need images.
    fn image_users(&self) -> Vec<ImageUser> {
        let containers = self.registry().all();
        containers
            .iter()
            .filter_map(|container| {
                let live = container.live();
                Some(ImageUser {
                    container: container.id().clone(),
                    image: live.record.image.clone()?,
                    is_running: live.state.is_running(),
                })
            })
            .collect()
    }
}
