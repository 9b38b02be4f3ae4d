//! A push of what the repository was given before: one request, where the registry looks.
//!
//! The manifest is sent as it was, and the registry says whether it has all that this names. One that has
//! not shown that it looks ([`super::shown`]) is asked for everything instead, as is one that refuses.
//! That a registry which looks at a new manifest looks again at one that it has is assumed; Docker's own does.

use std::sync::Arc;
use std::time::Duration;

use berth_registry::RegistryError;
use berth_types::Digest;

use super::push_one::{PushOne, is_blob_unknown};
use super::send::Layer;
use crate::blocking::blocking;
use crate::error::EngineError;

/// How long the registry may take for it, before it is asked in the usual way.
const ANSWER: Duration = Duration::from_secs(15);

impl PushOne<'_> {
    /// Pushes it in one request, if that can be done; tells nothing if not.
    pub(super) async fn again(self) -> Result<bool, EngineError> {
        let repositories = &self.engine.registries().repositories;
        let address = self.target.address();
        if !repositories.of(&address).is_some_and(|shown| shown.looks) {
            return Ok(false);
        }
        let Some((manifest, media_type)) = self.as_before().await? else { return Ok(false) };
        let tag = self.name.tag().unwrap_or_default();
        let text = bytes::Bytes::from(manifest.clone());
        let put = self.target.put_manifest(tag, media_type, &text);
        match tokio::time::timeout(ANSWER, put).await {
            Ok(Ok(())) => {}
            failed => {
                tracing::info!(name = %self.name, ?failed, "everything is looked for");
                // It may keep tags from being written, or be another one by now. One that misses a blob looks,
                // and a connection that broke says nothing of it.
                let is_the_same =
                    |error: &RegistryError| error.is_passing() || is_blob_unknown(error);
                if !matches!(&failed, Ok(Err(error)) if is_the_same(error)) {
                    repositories.forget(&address);
                }
                return Ok(false);
            }
        }
        for status in ["Preparing", "Layer already exists"] {
            self.tell_layers(status).await;
        }
        self.tell_end(&manifest).await;
        Ok(true)
    }

    /// The manifest under which the repository is known to have had the image, and its media type.
    async fn as_before(self) -> Result<Option<(Vec<u8>, &'static str)>, EngineError> {
        let Self { engine, target, tell, .. } = self;
        let known = self.known().await?;
        let repository = &self.name.name();
        let diffs = self.image.config.diff_ids().iter().zip(&known.blobs);
        let layers = diffs.map(|(diff, blobs)| {
            let is_oci = known.is_oci;
            Layer { engine, target, tell, repository, diff, is_oci, offer: None }.likely(blobs)
        });
        let Some(layers) = layers.collect() else { return Ok(None) };
        let (manifest, media_type) = self.manifest(layers, known.is_oci);
        let name = self.name.with_digest(Digest::of(&manifest));
        let (images, id) = (Arc::clone(engine.images()), self.image.id.clone());
        let is_known =
            blocking(move || Ok::<_, EngineError>(images.references(&id)?.contains(&name)));
        Ok(is_known.await?.then_some((manifest, media_type)))
    }
}
