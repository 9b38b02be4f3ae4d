//! Naming images.

use berth_images::ImageError;
use berth_types::reference::{Reference, ReferenceError};

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Gives an image a name, taking it from the image that had it.
    pub async fn tag_image(&self, name: &str, repo: &str, tag: &str) -> Result<(), EngineError> {
        let reference = new_name(repo, tag)?;
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let image = engine.images().resolve(&name)?;
            engine.db().write(|tx| engine.images().tag(tx, &reference, &image.id))?;
            engine.publish_image("tag", &image.id, &reference.familiar());
            Ok(())
        })
        .await
    }
}

fn new_name(repo: &str, tag: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse(repo)?;
    if reference.digest().is_some() {
        return Err(ImageError::DigestTag);
    }
    match berth_images::parse_repo_tag(repo, tag)? {
        Some(reference) => Ok(reference),
        None => Err(ReferenceError::Format.into()),
    }
}
