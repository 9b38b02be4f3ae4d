//! One layer to a registry: found there, mounted from another repository, or sent.

use std::sync::Arc;

use berth_images::LayerBlob;
use berth_registry::RegistryError;
use berth_registry::manifest::{DOCKER_LAYER, Descriptor, OCI_LAYER};
use berth_registry::upload::{Begun, Target, Upload};
use berth_types::reference::Reference;
use berth_types::{ChainId, DiffId, Digest};

use super::error::RegistryUseError;
use super::offer::Offer;
use super::progress::layer;
use super::upload::Sending;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::MessageSender;

/// How many remembered blobs are looked for in the repository, and tried to be mounted.
const GUESSES: usize = 3;

/// One layer on its way to a repository.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) engine: &'a Engine,
    pub(super) target: &'a Target,
    pub(super) tell: &'a MessageSender,
    /// Registry and repository.
    pub(super) repository: &'a str,
    pub(super) diff: &'a DiffId,
    /// In whose form the manifest will be.
    pub(super) is_oci: bool,
    /// The offer of the image, and which of its layers this is.
    pub(super) offer: Option<(&'a Offer<'a>, usize)>,
}

/// How far a registry is believed when it says what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// It has what it says that it has.
    Answers,
    /// It has what it is sent.
    Nothing,
}

/// A layer that a repository has.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) blob: Descriptor,
    /// What is to be remembered, if it is not the newest that is.
    pub(super) seen: Option<LayerBlob>,
}

impl Layer<'_> {
    /// What the layer is most likely called in the repository.
    pub(super) fn likely(self, known: &[LayerBlob]) -> Option<Descriptor> {
        let blob = self.guesses(known).next()?;
        Some(descriptor(&self.blob(&blob.digest, blob.size, &blob.media_type)))
    }

    /// Looks for the layer in the repository, under the names that are known to have led to it.
    pub(super) async fn find(self, known: &[LayerBlob]) -> Result<Option<Found>, EngineError> {
        let newest = known.first();
        for blob in self.guesses(known) {
            let Some(size) = self.target.has(&blob.digest).await.map_err(registry)? else {
                self.forget(blob).await?;
                continue;
            };
            self.tell.tell(layer(self.id(), "Layer already exists")).await;
            let seen = self.blob(&blob.digest, size, &blob.media_type);
            let blob = descriptor(&seen);
            let seen = Some(seen).filter(|seen| newest != Some(seen));
            return Ok(Some(Found { blob, seen }));
        }
        Ok(None)
    }

    fn guesses<'a>(&self, known: &'a [LayerBlob]) -> impl Iterator<Item = &'a LayerBlob> {
        let fits = |blob: &&LayerBlob| {
            blob.repository == self.repository && self.media_type(&blob.media_type).is_some()
        };
        known.iter().filter(fits).take(GUESSES).collect::<Vec<_>>().into_iter()
    }

    /// Makes sure that the repository has the layer; what it is called there.
    pub(super) async fn send(
        self,
        chain: ChainId,
        trust: Trust,
    ) -> Result<Descriptor, EngineError> {
        let registries = self.engine.registries();
        let place = if let Some(place) = registries.uploads.try_enter() {
            place
        } else {
            self.tell.tell(layer(self.id(), "Waiting")).await;
            registries.uploads.enter().await
        };
        // Another push of the same layer to the same place is waited for, and finds it there.
        let turn = registries.turn(&format!("{}@{}", self.repository, self.diff));
        let turn = turn.lock().await;
        let blob = self.ensure(chain, trust).await?;
        drop((turn, place));
        Ok(blob)
    }

    async fn ensure(&self, chain: ChainId, trust: Trust) -> Result<Descriptor, EngineError> {
        let begun = match trust {
            Trust::Answers => {
                let (images, diff) = (Arc::clone(self.engine.images()), self.diff.clone());
                let known = blocking(move || images.blobs_of(&diff)).await?;
                if let Some(found) = self.find(&known).await? {
                    if let Some((offer, at)) = self.offer {
                        offer.has(at, &found.blob);
                    }
                    return Ok(found.blob);
                }
                match self.mount(&known).await? {
                    Mounted::Yes(blob) => return Ok(blob),
                    Mounted::No(begun) => begun,
                }
            }
            Trust::Nothing => None,
        };
        let sending = Sending { layer: self, chain: &chain };
        let (digest, size) = sending.run(begun).await?;
        self.tell.tell(layer(self.id(), "Pushed")).await;
        self.note(&digest, size, DOCKER_LAYER).await
    }

    /// Asks the registry to take the blob from another of its repositories.
    async fn mount(&self, known: &[LayerBlob]) -> Result<Mounted, EngineError> {
        let domain = |name: &str| Reference::parse(name).ok().map(|name| name.domain().to_owned());
        let here = domain(self.repository);
        let same = known.iter().filter(|blob| {
            blob.repository != self.repository
                && domain(&blob.repository) == here
                && self.media_type(&blob.media_type).is_some()
        });
        let mut begun: Option<Upload> = None;
        for blob in same.take(GUESSES) {
            let Ok(from) = Reference::parse(&blob.repository) else { continue };
            if let Some(unused) = begun.take() {
                self.target.cancel(unused).await;
            }
            self.before(&blob.digest, blob.size, &blob.media_type).await;
            match self.target.begin(Some((&blob.digest, from.path()))).await {
                Ok(Begun::Mounted) => {
                    let status = format!("Mounted from {}", from.path());
                    self.tell.tell(layer(self.id(), status)).await;
                    let noted = self.note(&blob.digest, blob.size, &blob.media_type).await?;
                    return Ok(Mounted::Yes(noted));
                }
                Ok(Begun::Upload(upload)) => begun = Some(upload),
                // The client may not read there; it may still write here.
                Err(error) => tracing::debug!(%error, from = from.path(), "not mounted"),
            }
        }
        if let Some((offer, at)) = self.offer {
            offer.has_not(at);
        }
        Ok(Mounted::No(begun))
    }

    /// To be called before the repository has the layer as this.
    pub(super) async fn before(&self, digest: &Digest, size: u64, media_type: &str) {
        if let Some((offer, at)) = self.offer {
            offer.before(at, &descriptor(&self.blob(digest, size, media_type))).await;
        }
    }

    async fn note(
        &self,
        digest: &Digest,
        size: u64,
        media_type: &str,
    ) -> Result<Descriptor, EngineError> {
        let blob = self.blob(digest, size, media_type);
        let (images, noted) = (Arc::clone(self.engine.images()), blob.clone());
        blocking(move || images.note_blob(&noted)).await?;
        Ok(descriptor(&blob))
    }

    fn blob(&self, digest: &Digest, size: u64, media_type: &str) -> LayerBlob {
        LayerBlob {
            diff: self.diff.clone(),
            repository: self.repository.to_owned(),
            digest: digest.clone(),
            size,
            media_type: self.media_type(media_type).unwrap_or(DOCKER_LAYER).to_owned(),
        }
    }

    async fn forget(&self, blob: &LayerBlob) -> Result<(), EngineError> {
        let (images, blob) = (Arc::clone(self.engine.images()), blob.clone());
        Ok(blocking(move || images.forget_blob(&blob)).await?)
    }

    /// What a blob is called in the manifest; `None` when that form does not have its compression.
    fn media_type(&self, own: &str) -> Option<&'static str> {
        match (compression(own)?, self.is_oci) {
            ("gzip", true) => Some(OCI_LAYER),
            ("gzip", false) => Some(DOCKER_LAYER),
            ("zstd", true) => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
            ("", true) => Some("application/vnd.oci.image.layer.v1.tar"),
            ("", false) => Some("application/vnd.docker.image.rootfs.diff.tar"),
            _ => None,
        }
    }

    pub(super) fn id(&self) -> &str {
        self.diff.short()
    }
}

enum Mounted {
    Yes(Descriptor),
    /// An upload may have begun on the way.
    No(Option<Upload>),
}

/// How a layer of this media type is compressed; `None` for what is no layer that we know.
fn compression(media_type: &str) -> Option<&'static str> {
    match media_type {
        DOCKER_LAYER | OCI_LAYER => Some("gzip"),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Some("zstd"),
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(""),
        _ => None,
    }
}

fn descriptor(blob: &LayerBlob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type.clone(),
        size: blob.size,
        digest: blob.digest.clone(),
        platform: None,
    }
}

pub(super) fn registry(error: RegistryError) -> EngineError {
    let error = match error {
        // As Docker, which names no address where there is nothing to ask with.
        RegistryError::Token { cause, .. }
            if matches!(*cause, RegistryError::NoCredentials | RegistryError::NoToken) =>
        {
            *cause
        }
        other => other,
    };
    RegistryUseError::Registry(error).into()
}
