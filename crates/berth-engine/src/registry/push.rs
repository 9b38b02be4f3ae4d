//! `docker push`: one tag of a repository, or all.

use std::sync::Arc;

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_images::{Hold, Image, ImageError};
use berth_registry::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, ImageManifest, OCI_CONFIG, OCI_MANIFEST,
};
use berth_registry::upload::Target;
use berth_registry::{Credentials, Purpose};
use berth_types::Digest;
use berth_types::reference::Reference;
use futures_util::future::try_join_all;
use serde::Serialize as _;
use serde_json::json;

use super::error::RegistryUseError;
use super::progress::layer;
use super::pull::{Started, started};
use super::send::Layer;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::MessageSender;

/// What a push asks for, as the client wrote it.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    /// The repository.
    pub image: String,
    /// The tag; empty for all that there are.
    pub tag: String,
    /// Who asks.
    pub credentials: Credentials,
}

impl PushRequest {
    fn reference(&self) -> Result<Reference, EngineError> {
        let image = Reference::parse(&self.image).map_err(ImageError::from)?;
        if image.digest().is_some() {
            return Err(RegistryUseError::PushDigest.into());
        }
        if self.tag.is_empty() {
            return Ok(image);
        }
        Ok(image.name_only().with_tag(&self.tag).map_err(ImageError::from)?)
    }
}

impl Engine {
    /// Pushes an image. What goes wrong is the last message. Ends when nobody reads any more.
    pub async fn push_image(&self, request: PushRequest) -> Result<Started, EngineError> {
        let reference = request.reference()?;
        let engine = self.clone();
        started(async move |tell: MessageSender| {
            let status = format!("The push refers to repository [{}]", reference.name());
            tell.tell(ProgressMessage::status(status)).await;
            let chosen = engine.to_push(&reference).await?;
            let domain = reference.domain();
            let credentials = request.credentials.clone();
            let mut addresses = engine.addresses(domain, Purpose::Push, credentials).await?;
            while let Some(session) = addresses.next().await {
                let target = Target { session, repository: reference.path().to_owned() };
                match engine.push_all(&target, &chosen, &tell).await {
                    Ok(()) => return Ok(()),
                    Err(error) => addresses.note(error)?,
                }
            }
            Err(addresses.failure(domain))
        })
        .await
    }

    /// The images to push with their names.
    async fn to_push(&self, reference: &Reference) -> Result<Vec<(Reference, Image)>, EngineError> {
        let (images, wanted) = (Arc::clone(self.images()), reference.clone());
        let all = blocking(move || images.tagged(&wanted)).await?;
        if all.is_empty() {
            return Err(RegistryUseError::NothingToPush { name: reference.familiar_name() }.into());
        }
        if reference.is_name_only() {
            return Ok(all);
        }
        let chosen: Vec<_> = all.into_iter().filter(|(name, _)| name == reference).collect();
        if chosen.is_empty() {
            return Err(RegistryUseError::NoTag { name: reference.familiar() }.into());
        }
        Ok(chosen)
    }

    async fn push_all(
        &self,
        target: &Target,
        chosen: &[(Reference, Image)],
        tell: &MessageSender,
    ) -> Result<(), EngineError> {
        for (name, image) in chosen {
            self.push_one(target, name, image, tell).await?;
            let attributes = [("name".to_owned(), name.familiar_name())].into();
            self.events().publish_map("image", "push", &name.familiar(), attributes);
        }
        Ok(())
    }

    async fn push_one(
        &self,
        target: &Target,
        name: &Reference,
        image: &Image,
        tell: &MessageSender,
    ) -> Result<(), EngineError> {
        let is_oci = self.is_oci(image).await?;
        let chains = image.config.chains();
        let _held = Held::take(self, chains.last().cloned()).await?;
        for diff in image.config.diff_ids().iter().rev() {
            tell.tell(layer(diff.short(), "Preparing")).await;
        }
        let repository = name.name();
        // The uppermost first, as Docker does.
        let sent = chains.iter().zip(image.config.diff_ids()).rev().map(|(chain, diff)| {
            let one = Layer { engine: self, target, tell, repository: &repository, diff, is_oci };
            one.send(chain.clone())
        });
        let mut layers: Vec<Descriptor> = try_join_all(sent).await?;
        layers.reverse();
        let manifest = self.put_manifest(target, name, image, layers, is_oci).await?;
        let digest = Digest::of(&manifest);
        self.note_digest(name, image, &digest).await?;
        let tag = name.tag().unwrap_or_default();
        let status = format!("{tag}: digest: {digest} size: {}", manifest.len());
        tell.tell(ProgressMessage::status(status)).await;
        let aux = json!({ "Tag": tag, "Digest": digest, "Size": manifest.len() });
        tell.tell(ProgressMessage {
            progress_detail: Some(ProgressDetail::default()),
            aux: Some(aux),
            ..ProgressMessage::default()
        })
        .await;
        Ok(())
    }

    /// Whether the image came in the OCI's form, and goes in it.
    async fn is_oci(&self, image: &Image) -> Result<bool, EngineError> {
        let (images, id) = (Arc::clone(self.images()), image.id.clone());
        let media_type = blocking(move || images.media_type(&id)).await?;
        Ok(media_type.as_deref() == Some(OCI_MANIFEST))
    }

    async fn put_manifest(
        &self,
        target: &Target,
        name: &Reference,
        image: &Image,
        layers: Vec<Descriptor>,
        is_oci: bool,
    ) -> Result<bytes::Bytes, EngineError> {
        let raw = image.config.raw().to_vec();
        let digest = image.id.digest().clone();
        let (config_type, media_type) =
            if is_oci { (OCI_CONFIG, OCI_MANIFEST) } else { (DOCKER_CONFIG, DOCKER_MANIFEST) };
        let config = Descriptor {
            media_type: config_type.to_owned(),
            size: raw.len() as u64,
            digest: digest.clone(),
            platform: None,
        };
        let registry = |error| EngineError::from(RegistryUseError::Registry(error));
        if target.has(&digest).await.map_err(registry)?.is_none() {
            target.send_whole(&digest, raw).await.map_err(registry)?;
        }
        let manifest =
            ImageManifest { schema_version: 2, media_type: media_type.to_owned(), config, layers };
        let text = bytes::Bytes::from(indented(&manifest));
        let tag = name.tag().unwrap_or_default();
        target.put_manifest(tag, media_type, &text).await.map_err(registry)?;
        Ok(text)
    }

    async fn note_digest(
        &self,
        name: &Reference,
        image: &Image,
        digest: &Digest,
    ) -> Result<(), EngineError> {
        let (db, images) = (Arc::clone(self.db()), Arc::clone(self.images()));
        let (name, id) = (name.with_digest(digest.clone()), image.id.clone());
        blocking(move || {
            db.write(|tx| match images.point(tx, &name, &id) {
                // Removed while it was pushed: nothing is left to be noted.
                Err(ImageError::Db(_)) if images.get(&id)?.is_none() => Ok(()),
                noted => noted.map(drop),
            })
        })
        .await?;
        Ok(())
    }
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
    async fn take(engine: &Engine, top: Option<berth_types::ChainId>) -> Result<Self, EngineError> {
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
