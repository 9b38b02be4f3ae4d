//! `docker pull`: one image, or every tag of a repository.

use std::sync::Arc;

use berth_api::image::ProgressMessage;
use berth_images::config::{MAX_CONFIG, Platform as ImagePlatform};
use berth_images::pull::{Arrived, Pulled};
use berth_images::{ImageConfig, ImageError, LayerBlob};
use berth_layers::LayerError;
use berth_registry::download::Source;
use berth_registry::manifest::{DOCKER_LAYER, Descriptor, ImageManifest, OCI_LAYER};
use berth_registry::{Credentials, Fetched, Manifest, Platform, Purpose, RegistryError, Session};
use berth_types::reference::Reference;
use berth_types::{DiffId, Digest};
use tokio::sync::oneshot;

use super::error::RegistryUseError;
use super::layers::Arriving;
use super::progress::named;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::{MessageSender, Messages, messages};

/// How often a pull starts over because a layer that it counted on was removed meanwhile.
const ATTEMPTS: u32 = 4;

/// What a pull asks for, as the client wrote it.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// The image; with its tag or digest, or without.
    pub image: String,
    /// Its tag or digest; empty for what `image` says, or every tag.
    pub tag: String,
    /// `os[/architecture[/variant]]`; empty for this host's.
    pub platform: String,
    /// Who asks.
    pub credentials: Credentials,
}

/// An operation that has begun to tell what it does.
#[derive(Debug)]
pub struct Started {
    /// What it told first.
    pub first: Option<ProgressMessage>,
    /// What it tells from there on; the last is the failure, if there is one.
    pub rest: Messages,
}

impl PullRequest {
    fn reference(&self) -> Result<Reference, EngineError> {
        let image = self.image.strip_suffix(':').unwrap_or(&self.image);
        let image = Reference::parse(image).map_err(ImageError::from)?;
        if image.familiar_name() == "scratch" {
            return Err(RegistryUseError::Reserved { name: "scratch".to_owned() }.into());
        }
        if self.tag.is_empty() {
            return Ok(image);
        }
        if let Ok(digest) = Digest::parse(&self.tag) {
            return Ok(image.name_only().with_digest(digest));
        }
        Ok(image.name_only().with_tag(&self.tag).map_err(ImageError::from)?)
    }
}

impl Engine {
    /// Pulls an image. What goes wrong before anything is told is the result; afterwards it is the
    /// last message. Ends when nobody reads any more.
    pub async fn pull_image(&self, request: PullRequest) -> Result<Started, EngineError> {
        let engine = self.clone();
        started(async move |tell: MessageSender| engine.pull_telling(request, &tell).await).await
    }

    /// Pulls an image to the end, or until the future is dropped.
    pub(crate) async fn pull_telling(
        &self,
        request: PullRequest,
        tell: &MessageSender,
    ) -> Result<(), EngineError> {
        let reference = request.reference()?;
        let asked = &*request.platform;
        let platform = match asked {
            "" => ImagePlatform::host(),
            text => ImagePlatform::parse(text)?,
        };
        let pull = Pull { engine: self, tell, asked, platform };
        let domain = reference.domain();
        let credentials = request.credentials.clone();
        let mut addresses = self.addresses(domain, Purpose::Pull, credentials).await?;
        while let Some(session) = addresses.next().await {
            match pull.from(session, &reference).await {
                Ok(()) => return Ok(()),
                Err(error) => addresses.note(error)?,
            }
        }
        Err(addresses.failure(domain))
    }
}

/// Runs an operation beside the request until it has told something, or has failed before.
pub(super) async fn started<W, F>(work: W) -> Result<Started, EngineError>
where
    W: FnOnce(MessageSender) -> F,
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let (sender, mut rest) = messages();
    let (told, failed) = oneshot::channel();
    let work = work(sender.clone());
    tokio::spawn(async move {
        let result = tokio::select! {
            result = work => result,
            () = sender.closed() => return,
        };
        if let Err(error) = result {
            if sender.has_told() {
                sender.tell_failure(&error).await;
            } else if told.send(error).is_err() {
                tracing::debug!("the client left before it was told of the failure");
            }
        }
    });
    let first = rest.recv().await;
    if first.is_none()
        && let Ok(error) = failed.await
    {
        return Err(error);
    }
    Ok(Started { first, rest })
}

/// One pull from one address.
struct Pull<'a> {
    engine: &'a Engine,
    tell: &'a MessageSender,
    /// The platform as the client wrote it; empty when it did not.
    asked: &'a str,
    platform: ImagePlatform,
}

impl Pull<'_> {
    async fn from(&self, session: Arc<Session>, reference: &Reference) -> Result<(), EngineError> {
        let mut is_news = false;
        let source = Source { session, repository: reference.path().to_owned() };
        if reference.is_name_only() {
            let tags = source.session.tags(&source.repository).await;
            for tag in tags.map_err(|error| RegistryUseError::of_pull(error, reference))? {
                let tagged = reference.with_tag(&tag).map_err(ImageError::from)?;
                is_news |= self.one(&source, &tagged).await?;
            }
        } else {
            is_news = self.one(&source, reference).await?;
        }
        let status = if is_news { "Downloaded newer image" } else { "Image is up to date" };
        let status = format!("Status: {status} for {}", reference.familiar());
        self.tell.tell(ProgressMessage::status(status)).await;
        let attributes = [("name".to_owned(), reference.familiar_name())].into();
        self.engine.events().publish_map("image", "pull", &reference.familiar(), attributes);
        Ok(())
    }

    /// Pulls one image. Whether its name had another one before, or none.
    async fn one(&self, source: &Source, reference: &Reference) -> Result<bool, EngineError> {
        let Source { session, repository } = source;
        let of_pull = |error| EngineError::from(RegistryUseError::of_pull(error, reference));
        let full = reference.to_string();
        let digest = reference.digest().map(Digest::as_str);
        let wanted = digest.or(reference.tag()).unwrap_or_default();
        let Fetched { descriptor, manifest } =
            session.manifest(repository, wanted, &full).await.map_err(of_pull)?;
        let image = match manifest {
            Manifest::Image(image) => *image,
            Manifest::Index(index) => {
                let chosen = index.choose(&self.wanted_platform()).map_err(of_pull)?;
                let inner = session.manifest(repository, chosen.digest.as_str(), &full).await;
                match inner.map_err(of_pull)?.manifest {
                    Manifest::Image(image) => *image,
                    Manifest::Index(_) => {
                        let reason = "a list of manifests is in another one".to_owned();
                        return Err(of_pull(RegistryError::BadManifest { reason }));
                    }
                }
            }
        };
        image.check_is_image().map_err(of_pull)?;
        let shown = digest.map_or_else(|| wanted.to_owned(), |_| full.clone());
        self.tell.tell(named(shown, format!("Pulling from {repository}"))).await;
        let config = match self.known(&image).await? {
            Some(config) => config,
            None => configuration(source, &image).await?,
        };
        let arrived = arrived(reference, &descriptor.digest, &image, &config);
        let pulled = self.bring(source, &image, &config, &arrived).await?;
        let line = format!("Digest: {}", descriptor.digest);
        self.tell.tell(ProgressMessage::status(line)).await;
        self.warn_of_platform(reference, &config).await;
        Ok(pulled.is_news)
    }

    /// The configuration of an image that is there already.
    async fn known(&self, image: &ImageManifest) -> Result<Option<ImageConfig>, EngineError> {
        let (images, id) = (Arc::clone(self.engine.images()), image.config.digest.clone().into());
        let known = blocking(move || images.get(&id)).await?;
        let config = known.map(|known| (*known.config).clone());
        Ok(config.filter(|config| config.diff_ids().len() == image.layers.len()))
    }

    /// Brings the layers in and records everything. Starts over when a layer that was there is gone
    /// in between, which happens only while none is missing: from then on they are kept.
    async fn bring(
        &self,
        source: &Source,
        image: &ImageManifest,
        config: &ImageConfig,
        arrived: &Arrived,
    ) -> Result<Pulled, EngineError> {
        let mut attempt = 1;
        loop {
            match self.bring_once(source, image, config, arrived).await {
                Err(EngineError::Image(ImageError::Layer(LayerError::Unknown { .. })))
                    if attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn bring_once(
        &self,
        source: &Source,
        image: &ImageManifest,
        config: &ImageConfig,
        arrived: &Arrived,
    ) -> Result<Pulled, EngineError> {
        let arriving =
            Arriving::begin(self.engine, config, &image.layers, source, self.tell).await?;
        if !arriving.pulling().missing().is_empty() || self.known(image).await?.is_none() {
            arriving.fetch(&image.layers, source, self.tell).await?;
        }
        let (pulling, arrived) = (Arc::clone(arriving.pulling()), arrived.clone());
        let missing = pulling.missing().iter().map(|&index| image.layers[index].digest.clone());
        let recording = Arc::clone(&self.engine.registries().recording);
        let (missing, used) = (missing.collect(), arriving.used());
        blocking(move || {
            let _entered = recording.enter(missing);
            // Before the layers are synced, which would write these files too.
            drop(used);
            pulling.commit(&arrived)
        })
        .await
        .map_err(EngineError::from)
    }

    fn wanted_platform(&self) -> Platform {
        let ImagePlatform { os, architecture, variant } = self.platform.clone();
        Platform { os, architecture, variant, ..Platform::default() }
    }

    /// As Docker: an image for something else than was asked for is taken, with a warning.
    async fn warn_of_platform(&self, reference: &Reference, config: &ImageConfig) {
        let is_other =
            config.architecture() != self.platform.architecture || config.os() != self.platform.os;
        if self.asked.is_empty() || !is_other {
            return;
        }
        let own = format!("{}/{}", config.os(), config.architecture());
        let text = format!(
            "WARNING: image with reference {} was found but does not match the specified platform: \
             wanted {}, actual: {own}",
            reference.familiar(),
            self.wanted_platform(),
        );
        self.tell.tell(ProgressMessage::status(text)).await;
    }
}

/// The image's configuration, verified, and checked against the manifest.
async fn configuration(source: &Source, image: &ImageManifest) -> Result<ImageConfig, EngineError> {
    let Descriptor { digest, size, .. } = &image.config;
    let fetched = source.session.small_blob(&source.repository, digest, MAX_CONFIG).await;
    let raw = fetched.map_err(RegistryUseError::Config)?;
    if Digest::of(&raw) != *digest || raw.len() as u64 != *size {
        let digest = digest.clone();
        return Err(RegistryUseError::Config(RegistryError::ConfigDigest { digest }).into());
    }
    let config = ImageConfig::parse(raw)?;
    if config.os() != berth_images::config::OS {
        return Err(RegistryUseError::OtherOs { os: config.os().to_owned() }.into());
    }
    if config.diff_ids().len() != image.layers.len() {
        return Err(RegistryUseError::ForeignLayers.into());
    }
    Ok(config)
}

/// What is recorded of an image beside its layers: its names, and its blobs.
fn arrived(
    reference: &Reference,
    digest: &Digest,
    image: &ImageManifest,
    config: &ImageConfig,
) -> Arrived {
    let by_digest = reference.with_digest(digest.clone());
    let names = match reference.digest() {
        Some(_) => vec![by_digest],
        None => vec![reference.clone(), by_digest],
    };
    let repository = reference.name();
    let blob = |(blob, diff): (&Descriptor, &DiffId)| LayerBlob {
        diff: diff.clone(),
        repository: repository.clone(),
        digest: blob.digest.clone(),
        size: blob.size,
        media_type: match &*blob.media_type {
            "" if image.is_oci() => OCI_LAYER.to_owned(),
            "" => DOCKER_LAYER.to_owned(),
            own => own.to_owned(),
        },
    };
    let blobs = image.layers.iter().zip(config.diff_ids()).map(blob).collect();
    Arrived { names, media_type: image.media_type.clone(), blobs }
}
