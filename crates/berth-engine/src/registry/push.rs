//! `docker push`: one tag of a repository, or all.

use std::sync::Arc;

use berth_api::image::ProgressMessage;
use berth_images::{Image, ImageError};
use berth_registry::upload::Target;
use berth_registry::{Credentials, Purpose};
use berth_types::reference::Reference;

use super::error::RegistryUseError;
use super::pull::{Started, started};
use super::push_one::PushOne;
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
            let repositories = &engine.registries().repositories;
            let is_new = match addresses.open_one(repositories, reference.path()).await {
                Some(target) => engine.push_again(&target, chosen, &tell).await?,
                None => chosen,
            };
            if is_new.is_empty() {
                return Ok(());
            }
            while let Some(session) = addresses.next().await {
                let target = Target { session, repository: reference.path().to_owned() };
                match engine.push_all(&target, &is_new, &tell).await {
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
            PushOne { engine: self, target, name, image, tell }.run().await?;
            self.note_push(name);
        }
        Ok(())
    }

    /// Pushes what goes in one request each; the rest.
    async fn push_again(
        &self,
        target: &Target,
        chosen: Vec<(Reference, Image)>,
        tell: &MessageSender,
    ) -> Result<Vec<(Reference, Image)>, EngineError> {
        let mut rest = Vec::new();
        for (name, image) in chosen {
            let one = PushOne { engine: self, target, name: &name, image: &image, tell };
            if one.again().await? {
                self.note_push(&name);
            } else {
                rest.push((name, image));
            }
        }
        Ok(rest)
    }

    fn note_push(&self, name: &Reference) {
        let attributes = [("name".to_owned(), name.familiar_name())].into();
        self.events().publish_map("image", "push", &name.familiar(), attributes);
    }
}
