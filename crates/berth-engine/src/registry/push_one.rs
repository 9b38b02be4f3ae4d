//! One image to one repository: its layers, its configuration, and the manifest that names them.
//!
//! Everything is looked for first, all at the same time. What is there is not sent, and where
//! everything is there and the tag leads to this very manifest, nothing is. What is remembered
//! of the repository only says what to look for: no push ends without the registry having said of
//! each blob that it is there, or having taken it, or having taken a manifest that names it after it
//! has shown that it refuses one whose blobs it misses ([`super::again`]).

use std::sync::Arc;

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_images::{Hold, Image, ImageError, LayerBlob};
use berth_registry::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, ImageManifest, OCI_CONFIG, OCI_MANIFEST,
};
use berth_registry::upload::Target;
use berth_registry::{ErrorCode, Named, RegistryError};
use berth_types::reference::Reference;
use berth_types::{ChainId, Digest};
use futures_util::future::{try_join_all, try_join3};
use serde::Serialize as _;
use serde_json::json;
use tokio::sync::Semaphore;

use super::error::RegistryUseError;
use super::offer::Offer;
use super::progress::layer;
use super::send::{Found, Layer, Trust, registry};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::MessageSender;

/// How many layers are looked for at a time.
const LOOKS: usize = 16;

/// One image on its way to a repository.
#[derive(Clone, Copy)]
pub(super) struct PushOne<'a> {
    pub(super) engine: &'a Engine,
    pub(super) target: &'a Target,
    pub(super) name: &'a Reference,
    pub(super) image: &'a Image,
    pub(super) tell: &'a MessageSender,
}

/// What is known of an image before a registry is asked.
pub(super) struct Known {
    /// Whether the image came in the OCI's form, and goes in it.
    pub(super) is_oci: bool,
    /// For each layer, what registries call it.
    pub(super) blobs: Vec<Vec<LayerBlob>>,
}

/// What the repository has of an image.
struct There {
    /// For each layer.
    layers: Vec<Option<Found>>,
    has_config: bool,
    named: Option<Named>,
}

impl There {
    fn is_all(&self) -> bool {
        self.has_config && self.layers.iter().all(Option::is_some)
    }
}

impl PushOne<'_> {
    /// Pushes it.
    pub(super) async fn run(self) -> Result<(), EngineError> {
        if self.again().await? {
            return Ok(());
        }
        self.tell_layers("Preparing").await;
        // A registry that misses a blob after all may have lost it since it was asked. One that goes
        // on to say that it has what it misses is sent everything.
        let mut tries = [Trust::Answers, Trust::Answers, Trust::Nothing].into_iter();
        let manifest = loop {
            let trust = tries.next().unwrap_or(Trust::Nothing);
            match self.once(trust).await {
                Err(error) if failed_of_blob(&error) && trust == Trust::Answers => {
                    tracing::info!(name = %self.name, %error, "blobs are looked for again");
                }
                done => break done?,
            }
        };
        self.tell_end(&manifest).await;
        Ok(())
    }

    /// Sends what is not there; the manifest, and that it is there.
    async fn once(self, trust: Trust) -> Result<Vec<u8>, EngineError> {
        let known = self.known().await?;
        let there = match trust {
            Trust::Answers => self.look(&known).await?,
            Trust::Nothing => There {
                layers: known.blobs.iter().map(|_| None).collect(),
                has_config: false,
                named: None,
            },
        };
        let (is_all, named) = (there.is_all(), there.named.clone());
        let seen: Vec<_> =
            there.layers.iter().flatten().filter_map(|found| found.seen.clone()).collect();
        let may_offer = trust == Trust::Answers && !there.has_config;
        let layers = self.send_missing(there.layers, known.is_oci, trust, may_offer).await?;
        if !there.has_config {
            self.send_config().await?;
        }
        let (manifest, media_type) = self.manifest(layers, known.is_oci);
        let digest = Digest::of(&manifest);
        let own = Named { digest, media_type: media_type.to_owned() };
        if !is_all || named.as_ref() != Some(&own) {
            let tag = self.name.tag().unwrap_or_default();
            let text = bytes::Bytes::from(manifest.clone());
            self.target.put_manifest(tag, media_type, &text).await.map_err(registry)?;
        }
        self.note(own.digest, seen).await?;
        Ok(manifest)
    }

    pub(super) async fn known(self) -> Result<Known, EngineError> {
        let (images, image) = (Arc::clone(self.engine.images()), self.image.clone());
        let known = blocking(move || {
            let is_oci = images.media_type(&image.id)?.as_deref() == Some(OCI_MANIFEST);
            let blobs = image.config.diff_ids().iter().map(|diff| images.blobs_of(diff));
            Ok::<_, ImageError>(Known { is_oci, blobs: blobs.collect::<Result<_, _>>()? })
        });
        Ok(known.await?)
    }

    async fn look(self, known: &Known) -> Result<There, EngineError> {
        let repository = self.name.name();
        let places = Semaphore::new(LOOKS);
        let diffs = self.image.config.diff_ids().iter();
        // The uppermost first, as Docker does.
        let looks = diffs.zip(&known.blobs).rev().map(|(diff, blobs)| {
            let Self { engine, target, tell, .. } = self;
            let (is_oci, repository, places) = (known.is_oci, &repository, &places);
            let one = Layer { engine, target, tell, repository, diff, is_oci, offer: None };
            async move {
                let _place = places.acquire().await;
                one.find(blobs).await
            }
        });
        let layers = try_join_all(looks);
        let config = async {
            let there = self.target.has(self.image.id.digest()).await.map_err(registry)?;
            Ok(there.is_some())
        };
        let named = async {
            // Why it is not told is for the requests to say that are needed.
            Ok(self.target.named(self.name.tag().unwrap_or_default()).await.unwrap_or_default())
        };
        let (mut layers, has_config, named) = try_join3(layers, config, named).await?;
        layers.reverse();
        Ok(There { layers, has_config, named })
    }

    /// What each layer is called in the repository, where they all are then.
    async fn send_missing(
        self,
        there: Vec<Option<Found>>,
        is_oci: bool,
        trust: Trust,
        may_offer: bool,
    ) -> Result<Vec<Descriptor>, EngineError> {
        let chains = self.image.config.chains();
        let is_missing = there.iter().any(Option::is_none);
        let top = chains.last().filter(|_| is_missing).cloned();
        let _held = Held::take(self.engine, top).await?;
        let repository = &self.name.name();
        let diffs = self.image.config.diff_ids();
        let is_known = self.engine.registries().repositories.of(&self.target.address()).is_some();
        let offer = (may_offer && !is_known).then(|| {
            let there = there.iter().map(|found| found.as_ref().map(|found| found.blob.clone()));
            Offer::new(self, is_oci, there.collect())
        });
        let offer = offer.as_ref();
        let sent = there.into_iter().zip(chains.iter().zip(diffs)).enumerate().rev().map(
            |(at, (found, (chain, diff)))| async move {
                let Self { engine, target, tell, .. } = self;
                if let Some(found) = found {
                    return Ok(found.blob);
                }
                let offer = offer.map(|offer| (offer, at));
                let one = Layer { engine, target, tell, repository, diff, is_oci, offer };
                one.send(chain.clone(), trust).await
            },
        );
        let mut layers: Vec<Descriptor> = try_join_all(sent).await?;
        layers.reverse();
        Ok(layers)
    }

    /// Sends the configuration, and again when that failed for reasons that pass.
    async fn send_config(self) -> Result<(), EngineError> {
        let (digest, limits) = (self.image.id.digest(), self.target.session.limits());
        let mut attempt = 1;
        loop {
            let raw = self.image.config.raw().to_vec();
            match self.target.send_whole(digest, raw).await {
                Err(error) if error.is_passing() && attempt < limits.attempts => {
                    tracing::info!(name = %self.name, %error, "the configuration is sent again");
                    tokio::time::sleep(limits.pause * attempt).await;
                    attempt += 1;
                }
                done => return done.map_err(registry),
            }
        }
    }

    pub(super) fn manifest(self, layers: Vec<Descriptor>, is_oci: bool) -> (Vec<u8>, &'static str) {
        let (config_type, media_type) =
            if is_oci { (OCI_CONFIG, OCI_MANIFEST) } else { (DOCKER_CONFIG, DOCKER_MANIFEST) };
        let config = Descriptor {
            media_type: config_type.to_owned(),
            size: self.image.config.raw().len() as u64,
            digest: self.image.id.digest().clone(),
            platform: None,
        };
        let manifest =
            ImageManifest { schema_version: 2, media_type: media_type.to_owned(), config, layers };
        (indented(&manifest), media_type)
    }

    pub(super) async fn tell_layers(self, status: &str) {
        for diff in self.image.config.diff_ids().iter().rev() {
            self.tell.tell(layer(diff.short(), status)).await;
        }
    }

    /// Records under what digest the image is there. Writes nothing where all is known.
    async fn note(self, digest: Digest, seen: Vec<LayerBlob>) -> Result<(), EngineError> {
        let (db, images) = (Arc::clone(self.engine.db()), Arc::clone(self.engine.images()));
        let (name, id) = (self.name.with_digest(digest), self.image.id.clone());
        blocking(move || {
            let is_known = images.references(&id)?.contains(&name);
            if is_known && seen.is_empty() {
                return Ok(());
            }
            db.write(|tx| {
                images.note_blobs(tx, &seen)?;
                if is_known {
                    return Ok(());
                }
                match images.point(tx, &name, &id) {
                    // Removed while it was pushed: nothing is left to be noted.
                    Err(ImageError::Db(_)) if images.get(&id)?.is_none() => Ok(()),
                    noted => noted.map(drop),
                }
            })
        })
        .await?;
        Ok(())
    }

    pub(super) async fn tell_end(self, manifest: &[u8]) {
        let (tag, digest) = (self.name.tag().unwrap_or_default(), Digest::of(manifest));
        let status = format!("{tag}: digest: {digest} size: {}", manifest.len());
        self.tell.tell(ProgressMessage::status(status)).await;
        let aux = json!({ "Tag": tag, "Digest": digest, "Size": manifest.len() });
        self.tell
            .tell(ProgressMessage {
                progress_detail: Some(ProgressDetail::default()),
                aux: Some(aux),
                ..ProgressMessage::default()
            })
            .await;
    }
}

/// Whether a push failed because of [`is_blob_unknown`].
fn failed_of_blob(error: &EngineError) -> bool {
    let EngineError::Registry(error) = error else { return false };
    matches!(&**error, RegistryUseError::Registry(error) if is_blob_unknown(error))
}

/// Whether a registry did not take a manifest because it misses what that names.
pub(super) fn is_blob_unknown(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Said(said) if said.iter().any(ErrorCode::is_blob_unknown))
}

/// JSON as Docker writes manifests, so that the same image gets the same digest.
fn indented(manifest: &ImageManifest) -> Vec<u8> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    manifest.serialize(&mut serializer).expect("texts and numbers");
    text
}

/// Layers that are kept meanwhile. Let go in the background.
struct Held(Option<Hold>);

impl Held {
    async fn take(engine: &Engine, top: Option<ChainId>) -> Result<Self, EngineError> {
        let Some(top) = top else { return Ok(Self(None)) };
        let images = Arc::clone(engine.images());
        Ok(Self(Some(blocking(move || images.hold(&top)).await?)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(hold) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(hold));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_the_digest_that_docker_gives_it() {
        let blob = |media_type: &str, size, hex: &str| Descriptor {
            media_type: media_type.to_owned(),
            size,
            digest: Digest::from_hex(hex).unwrap(),
            platform: None,
        };
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.to_owned(),
            config: blob(DOCKER_CONFIG, 7, &"a".repeat(64)),
            layers: vec![blob(berth_registry::manifest::DOCKER_LAYER, 9, &"b".repeat(64))],
        };
        let expected = format!(
            "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{DOCKER_MANIFEST}\",\n   \"config\": \
             {{\n      \"mediaType\": \"{DOCKER_CONFIG}\",\n      \"size\": 7,\n      \"digest\": \
             \"sha256:{}\"\n   }},\n   \"layers\": [\n      {{\n         \"mediaType\": \"{}\",\n      \
            \x20  \"size\": 9,\n         \"digest\": \"sha256:{}\"\n      }}\n   ]\n}}",
            "a".repeat(64),
            berth_registry::manifest::DOCKER_LAYER,
            "b".repeat(64),
        );
        assert_eq!(String::from_utf8(indented(&manifest)).unwrap(), expected);
    }
}
