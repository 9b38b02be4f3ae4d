//! An image that arrives from a registry: its layers are made as they come in, in any order where
//! the driver allows, and recorded with it at once.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use berth_layers::{Ingest, LayerError, NewLayer, Parent};
use berth_types::ImageId;
use berth_types::reference::Reference;

use crate::blobs::{LayerBlob, note_blobs};
use crate::store::note_tar_size;
use crate::{ImageConfig, ImageError, ImageStore, NewImage};

/// An image in the making. Dropping it undoes whatever was not recorded.
///
/// From its beginning the layers that are there already are kept, whatever is removed meanwhile.
#[derive(Debug)]
pub struct Pulling {
    store: Arc<ImageStore>,
    config: ImageConfig,
    /// `None` when no layer is missing, and once it is recorded.
    ingest: RwLock<Option<Ingest>>,
    is_concurrent: bool,
    /// The missing layers, by their place in the image.
    missing: Vec<usize>,
    /// How long their tars were.
    tars: Mutex<Vec<u64>>,
}

/// What is recorded of an image beside its layers.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The names that it gets. The first is the one that was asked for.
    pub names: Vec<Reference>,
    /// The media type of its manifest.
    pub media_type: String,
    /// Its layers as the registry has them.
    pub blobs: Vec<LayerBlob>,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: ImageId,
    /// Whether the name that was asked for had another image, or none.
    pub is_news: bool,
}

impl ImageStore {
    /// Begins to make an image. Fails when it has too many layers.
    pub fn begin_pull(self: &Arc<Self>, config: ImageConfig) -> Result<Pulling, ImageError> {
        let (mut missing, mut layers) = (Vec::new(), Vec::new());
        let mut below = None;
        for (index, (chain, diff)) in config.chains().into_iter().zip(config.diff_ids()).enumerate()
        {
            if !missing.is_empty() || self.layers.get(&chain)?.is_none() {
                let parent = match (missing.len().checked_sub(1), below) {
                    (Some(slot), _) => Parent::Slot(slot),
                    (None, Some(below)) => Parent::Existing(below),
                    (None, None) => Parent::None,
                };
                layers.push(NewLayer { parent, expected: Some(diff.clone()) });
                missing.push(index);
            }
            below = Some(chain);
        }
        let ingest = match layers.len() {
            0 => None,
            _ => Some(self.layers.begin("pull", layers)?),
        };
        Ok(Pulling {
            store: Arc::clone(self),
            config,
            is_concurrent: ingest.as_ref().is_some_and(Ingest::concurrent),
            ingest: RwLock::new(ingest),
            tars: Mutex::new(vec![0; missing.len()]),
            missing,
        })
    }
}

impl ImageStore {
    /// The layers of an image that a repair found damaged and had nothing to mend with, by their
    /// place in it.
    pub fn damaged_layers(&self, config: &ImageConfig) -> Result<Vec<usize>, ImageError> {
        let mut damaged = Vec::new();
        for (index, chain) in config.chains().iter().enumerate() {
            if self.layers.is_damaged(chain)? {
                damaged.push(index);
            }
        }
        Ok(damaged)
    }

    /// Fills a damaged layer again with its blob, unless somebody else has meanwhile. Not while an
    /// image that stands on it is made.
    pub fn mend_layer(
        &self,
        config: &ImageConfig,
        index: usize,
        blob: impl Read + Send,
    ) -> Result<(), ImageError> {
        let Some(chain) = config.chains().into_iter().nth(index) else { return Ok(()) };
        if !self.layers.is_damaged(&chain)? {
            return Ok(());
        }
        self.layers.mend_from(&chain, blob).map_err(of_layer)
    }
}

impl Pulling {
    /// The layers that must arrive, by their place in the image. A *slot* is a place in this.
    pub fn missing(&self) -> &[usize] {
        &self.missing
    }

    /// Whether layers may be applied in any order, and at the same time.
    pub fn is_concurrent(&self) -> bool {
        self.is_concurrent
    }

    /// Unpacks the blob of a missing layer, which must be the layer that the configuration says.
    pub fn apply(&self, slot: usize, blob: impl Read + Send) -> Result<(), ImageError> {
        let ingest = self.ingest.read().unwrap_or_else(PoisonError::into_inner);
        let Some(ingest) = &*ingest else {
            return Err(LayerError::NotApplied { slot }.into());
        };
        let applied = ingest.apply(slot, blob).map_err(of_layer)?;
        self.tars.lock().unwrap_or_else(PoisonError::into_inner)[slot] = applied.tar_bytes;
        Ok(())
    }

    /// Records layers, image and names at once.
    pub fn commit(&self, arrived: &Arrived) -> Result<Pulled, ImageError> {
        let mut ingest = self.ingest.write().unwrap_or_else(PoisonError::into_inner).take();
        let chains = match &mut ingest {
            Some(ingest) => ingest.finish()?,
            None => Vec::new(),
        };
        let tars = self.tars.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pulled = self.store.db.write(|tx| {
            if let Some(ingest) = &ingest {
                ingest.record(tx)?;
            }
            for (chain, bytes) in chains.iter().zip(tars) {
                note_tar_size(tx, chain, bytes)?;
            }
            let new = NewImage { config: self.config.clone(), parent: None, built_locally: false };
            let id = self.store.record(tx, &new)?;
            self.store.note_media_type(tx, &id, &arrived.media_type)?;
            note_blobs(tx, &arrived.blobs)?;
            let mut is_news = false;
            for (at, name) in arrived.names.iter().enumerate() {
                let previous = self.store.point(tx, name, &id)?;
                is_news |= at == 0 && previous.as_ref() != Some(&id);
            }
            Ok::<_, ImageError>(Pulled { id, is_news })
        })?;
        if let Some(ingest) = ingest {
            ingest.done();
        }
        Ok(pulled)
    }
}

fn of_layer(error: LayerError) -> ImageError {
    match error {
        LayerError::DiffId { .. } => ImageError::ForeignLayer,
        // Removed meanwhile; the caller begins anew.
        error @ LayerError::Unknown { .. } => error.into(),
        error => ImageError::Register(error),
    }
}
