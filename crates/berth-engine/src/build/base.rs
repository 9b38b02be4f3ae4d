//! Images that a build begins with or copies from: those that are here, and those that are pulled.

use berth_images::config::Platform;
use berth_images::{Image, ImageError};
use berth_types::reference::Reference;

use super::error::BuildError;
use super::stages::Builder;
use crate::blocking::blocking;
use crate::error::{ContainerError, EngineError};
use crate::images::messages;
use crate::registry::PullRequest;

impl Builder {
    /// An image of this engine, pulled when it is not here, or when the newest is wanted.
    pub(super) async fn image(&self, name: &str, platform: &str) -> Result<Image, EngineError> {
        let here = if self.request.pull { None } else { self.image_here(name).await? };
        let image = if let Some(image) = here {
            image
        } else {
            Box::pin(self.pull(name, platform)).await?;
            let name = name.to_owned();
            self.image_here(&name).await?.ok_or(ImageError::NotFound { name })?
        };
        if !platform.is_empty() {
            check_platform(platform, &image)?;
        }
        Ok(image)
    }

    async fn image_here(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let (engine, name) = (self.engine.clone(), name.to_owned());
        match blocking(move || engine.images().resolve(&name)).await {
            Err(ImageError::NotFound { .. }) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Pulls, and says what it says. Ends with the build.
    async fn pull(&self, name: &str, platform: &str) -> Result<(), EngineError> {
        let image = Reference::parse(name).map_err(ImageError::from)?.with_default_tag();
        let request = PullRequest {
            image: image.to_string(),
            tag: String::new(),
            platform: platform.to_owned(),
            credentials: self.request.registries.of(image.domain()),
        };
        let (tell, mut told) = messages();
        let engine = self.engine.clone();
        let pulling = async move { engine.pull_telling(request, &tell).await };
        let saying = async {
            while let Some(message) = told.recv().await {
                self.output.say(message).await?;
            }
            Ok(())
        };
        tokio::select! {
            pulled = async { tokio::try_join!(pulling, saying) } => pulled.map(drop),
            () = self.output.cancelled() => Err(BuildError::Cancelled.into()),
        }
    }
}

fn check_platform(asked: &str, image: &Image) -> Result<(), EngineError> {
    let platform = Platform::parse(asked).map_err(|error| BuildError::Platform {
        platform: asked.to_owned(),
        source: Box::new(error.into()),
    })?;
    let config = &image.config;
    let own = (config.os(), config.architecture());
    if own == (platform.os.as_str(), platform.architecture.as_str()) {
        return Ok(());
    }
    Err(ContainerError::Platform {
        asked: asked.to_owned(),
        own: format!("{}/{}", own.0, own.1),
        image: image.id.clone(),
    }
    .into())
}
