//! One layer of everything that a build added to its base image.

use std::sync::Arc;

use berth_images::{Image, NewImage};
use berth_types::Timestamp;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// Makes the image whose layers are those of `base` and at most one more. Its history keeps what
/// was done, and says what was merged.
pub(crate) async fn squash(
    engine: &Engine,
    image: Image,
    base: Option<Image>,
) -> Result<Image, EngineError> {
    let engine = engine.clone();
    blocking(move || squash_now(&engine, &image, base.as_ref())).await
}

fn squash_now(engine: &Engine, image: &Image, base: Option<&Image>) -> Result<Image, EngineError> {
    let below = base.and_then(|base| base.config.top_chain());
    let made = match image.config.top_chain() {
        Some(top) if Some(&top) != below.as_ref() => {
            Some(engine.layers().flatten("build", below.as_ref(), &top)?)
        }
        _ => None,
    };
    let comment = match base {
        Some(base) => format!("merge {} to {}", image.id, base.id),
        None => format!("create new from {}", image.id),
    };
    let diff = made.as_ref().map(|(_, applied)| &applied.diff);
    let config =
        image.config.squashed(base.map(|base| &*base.config), diff, &comment, Timestamp::now())?;
    let mut ingest = made.map(|(ingest, _)| ingest);
    if let Some(ingest) = &mut ingest {
        ingest.finish()?;
    }
    let parent = base.map(|base| base.id.clone());
    let new = NewImage { config, parent: parent.clone(), built_locally: true };
    let id = engine.db().write(|tx| {
        if let Some(ingest) = &ingest {
            ingest.record(tx)?;
        }
        Ok::<_, EngineError>(engine.images().record(tx, &new)?)
    })?;
    if let Some(ingest) = ingest {
        ingest.done();
    }
    Ok(Image { id, config: Arc::new(new.config), parent, last_tagged: None, built_locally: true })
}
