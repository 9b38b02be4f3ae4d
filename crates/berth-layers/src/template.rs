//! Init layers that are filled once for each image.
//!
//! Where a layer has to be mounted to be filled, that takes most of the time of making a container. There,
//! the init layers of an image's containers begin as a filled one, the image's *template*: a layer of the
//! driver on the image's top layer, called `<its id>-init`. It is made for the first container, has no
//! record, and is removed with the layer that it stands on.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_storage::CreateOptions;
use berth_types::LayerId;

use crate::store::Inner;
use crate::{Layer, LayerError, LayerStore, RwLayer};

/// The templates that this process knows to be whole.
#[derive(Debug, Default)]
pub(crate) struct Templates(Mutex<BTreeSet<LayerId>>);

impl Templates {
    fn whole(&self) -> MutexGuard<'_, BTreeSet<LayerId>> {
        // Each change is one call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget(&self, layer: &LayerId) {
        self.whole().remove(layer);
    }
}

impl LayerStore {
    /// The template of the image whose top layer is `image`, made if it is not there; `None` where init
    /// layers are filled each for itself. Somebody must hold the image meanwhile.
    pub(crate) fn template(&self, image: &LayerId) -> Result<Option<LayerId>, LayerError> {
        let store = self.inner();
        if !self.driver().mounts_to_fill() {
            return Ok(None);
        }
        let template = image.init();
        if !store.templates.whole().contains(&template) {
            store.activations.alone(&template, || self.ensure_template(&template, image))?;
        }
        Ok(Some(template))
    }

    fn ensure_template(&self, template: &LayerId, image: &LayerId) -> Result<(), LayerError> {
        let whole = &self.inner().templates;
        if whole.whole().contains(template) {
            return Ok(());
        }
        let options = CreateOptions { writable: true, ..CreateOptions::default() };
        self.create_or_mend(template, Some(image), &options)?;
        // That it is frozen says that it is whole, after a power cut too.
        self.fill_init(template, || Ok(self.driver().sync()?))?;
        whole.whole().insert(template.clone());
        Ok(())
    }
}

impl Inner {
    /// The driver's names for what is on record, and for what may be there beside it.
    pub(crate) fn names(&self, layers: &[Layer], rw: &[RwLayer]) -> BTreeSet<LayerId> {
        let mut names: BTreeSet<LayerId> = layers.iter().map(|layer| layer.layer.clone()).collect();
        if self.driver.mounts_to_fill() {
            names.extend(layers.iter().map(|layer| layer.layer.init()));
        }
        names.extend(rw.iter().flat_map(|rw| [rw.mount.clone(), rw.mount.init()]));
        names
    }
}
