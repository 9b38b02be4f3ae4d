//! Making an image of a step.

use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_images::{Image, NewConfig, NewImage};
use berth_layers::{Applied, Ingest};
use berth_types::{ContainerId, DiffId, Timestamp};

use crate::engine::Engine;
use crate::error::EngineError;

/// A step's image, but for its layer.
#[derive(Debug, Clone)]
pub(crate) struct Recipe<'a> {
    /// What it stands on.
    pub(crate) parent: Option<&'a Image>,
    /// `MAINTAINER`.
    pub(crate) author: &'a str,
    /// The container that ran, or would have run.
    pub(crate) container: Option<&'a ContainerId>,
    /// What the step did, as the next build compares it.
    pub(crate) step: &'a ContainerConfig,
    /// What containers of the image preset.
    pub(crate) config: &'a ContainerConfig,
}

/// The layer of a step.
#[derive(Debug)]
pub(crate) enum Top {
    /// It changed no file.
    None,
    /// A new one.
    New(Box<(Ingest, Applied)>),
    /// One that an image has already.
    Known { diff: DiffId, created: Option<Timestamp> },
}

impl Recipe<'_> {
    /// Records the image, and its layer if it has a new one, in one transaction.
    pub(crate) fn make(&self, engine: &Engine, top: Top) -> Result<Image, EngineError> {
        let (mut ingest, diff, created) = match top {
            Top::None => (None, DiffId::empty(), None),
            Top::New(new) => {
                let (ingest, applied) = *new;
                // An empty layer is dropped, and the image has none.
                let ingest = (applied.diff != DiffId::empty()).then_some(ingest);
                (ingest, applied.diff, None)
            }
            Top::Known { diff, created } => (None, diff, created),
        };
        let config = NewConfig {
            parent: self.parent.map(|parent| &*parent.config),
            diff: &diff,
            created: created.unwrap_or_else(Timestamp::now),
            author: self.author,
            comment: "",
            container: self.container,
            container_config: self.step,
            config: self.config,
        }
        .build()?;
        if let Some(ingest) = &mut ingest {
            ingest.finish()?;
        }
        let parent = self.parent.map(|parent| parent.id.clone());
        let image = NewImage { config, parent: parent.clone(), built_locally: true };
        let id = engine.db().write(|tx| {
            if let Some(ingest) = &ingest {
                ingest.record(tx)?;
            }
            Ok::<_, EngineError>(engine.images().record(tx, &image)?)
        })?;
        if let Some(ingest) = ingest {
            ingest.done();
        }
        Ok(Image {
            id,
            config: Arc::new(image.config),
            parent,
            last_tagged: None,
            built_locally: true,
        })
    }
}
