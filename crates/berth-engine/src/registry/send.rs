//! One layer to a registry: found there, mounted from another repository, or sent.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use berth_images::{ImageStore, LayerBlob};
use berth_registry::RegistryError;
use berth_registry::manifest::{DOCKER_LAYER, Descriptor, OCI_LAYER};
use berth_registry::upload::{Begun, Target, Upload, body};
use berth_types::reference::Reference;
use berth_types::{ChainId, DiffId, Digest};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{mpsc, oneshot};

use super::error::RegistryUseError;
use super::progress::{far, layer};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::MessageSender;

/// How many remembered blobs are looked for in the repository, and tried to be mounted.
const GUESSES: usize = 3;
/// How many bytes of a layer are read between two reports.
const REPORT_EVERY: u64 = 512 << 10;
/// How large the pieces of a body are, and how many may wait.
const PIECE: usize = 128 << 10;
const AHEAD: usize = 8;

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
}

impl Layer<'_> {
    /// Makes sure that the repository has the layer; what it is called there.
    pub(super) async fn send(self, chain: ChainId) -> Result<Descriptor, EngineError> {
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
        let blob = self.ensure(chain).await?;
        drop((turn, place));
        Ok(blob)
    }

    async fn ensure(&self, chain: ChainId) -> Result<Descriptor, EngineError> {
        let (images, diff) = (Arc::clone(self.engine.images()), self.diff.clone());
        let mut known = blocking(move || images.blobs_of(&diff)).await?;
        known.retain(|blob| self.media_type(&blob.media_type).is_some());
        let (own, others): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|blob| blob.repository == self.repository);
        for blob in own.iter().take(GUESSES) {
            if let Some(size) = self.target.has(&blob.digest).await.map_err(registry)? {
                self.tell.tell(layer(self.id(), "Layer already exists")).await;
                return self.note(&blob.digest, size, &blob.media_type).await;
            }
            self.forget(blob).await?;
        }
        let begun = match self.mount(&others).await? {
            Mounted::Yes(blob) => return Ok(blob),
            Mounted::No(begun) => begun,
        };
        let (digest, size) = self.upload(&chain, begun).await?;
        self.tell.tell(layer(self.id(), "Pushed")).await;
        self.note(&digest, size, DOCKER_LAYER).await
    }

    /// Asks the registry to take the blob from another of its repositories.
    async fn mount(&self, others: &[LayerBlob]) -> Result<Mounted, EngineError> {
        let domain = |name: &str| Reference::parse(name).ok().map(|name| name.domain().to_owned());
        let here = domain(self.repository);
        let same = others.iter().filter(|blob| domain(&blob.repository) == here);
        let mut begun: Option<Upload> = None;
        for blob in same.take(GUESSES) {
            let Ok(from) = Reference::parse(&blob.repository) else { continue };
            if let Some(unused) = begun.take() {
                self.target.cancel(unused).await;
            }
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
        Ok(Mounted::No(begun))
    }

    /// Sends the layer, again when that failed for reasons that pass.
    async fn upload(
        &self,
        chain: &ChainId,
        mut begun: Option<Upload>,
    ) -> Result<(Digest, u64), EngineError> {
        let limits = self.target.session.limits();
        let mut attempt = 1;
        loop {
            let error = match self.upload_once(chain, begun.take()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let is_passing = matches!(&error, EngineError::Registry(error)
                if matches!(&**error, RegistryUseError::Registry(error) if error.is_passing()));
            if !is_passing || attempt >= limits.attempts {
                return Err(error);
            }
            tracing::info!(diff = %self.diff, %error, "upload tried again");
            let pause = limits.pause * attempt;
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            let plural = if seconds == 1 { "" } else { "s" };
            let status = format!("Retrying in {seconds} second{plural}");
            self.tell.tell(layer(self.id(), status)).await;
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn upload_once(
        &self,
        chain: &ChainId,
        begun: Option<Upload>,
    ) -> Result<(Digest, u64), EngineError> {
        let upload = match begun {
            Some(upload) => upload,
            None => match self.target.begin(None).await.map_err(registry)? {
                Begun::Upload(upload) => upload,
                Begun::Mounted => return Err(registry(RegistryError::NoLocation)),
            },
        };
        let (sender, pieces) = mpsc::channel(AHEAD);
        let (told, packed) = oneshot::channel();
        let packing = Packing {
            images: Arc::clone(self.engine.images()),
            chain: chain.clone(),
            pieces: sender,
            tell: self.tell.clone(),
            id: self.id().to_owned(),
        };
        tokio::task::spawn_blocking(move || {
            let result = packing.run();
            if told.send(result).is_err() {
                tracing::debug!("an upload was given up");
            }
        });
        let sent = self.target.send(upload, body(pieces)).await;
        // Why the layer could not be read is more than that the body was cut.
        let (digest, size) = match (packed.await, &sent) {
            (Ok(Ok(packed)), _) => packed,
            (Ok(Err(Unpacked::Failed(error))), _) => return Err(error),
            (Ok(Err(Unpacked::Unwanted)) | Err(_), Ok(_)) => {
                return Err(registry(RegistryError::Cut));
            }
            (Ok(Err(Unpacked::Unwanted)) | Err(_), Err(error)) => {
                return Err(registry(error.clone()));
            }
        };
        let upload = sent.map_err(registry)?;
        self.target.finish(upload, &digest).await.map_err(registry)?;
        Ok((digest, size))
    }

    async fn note(
        &self,
        digest: &Digest,
        size: u64,
        media_type: &str,
    ) -> Result<Descriptor, EngineError> {
        let media_type = self.media_type(media_type).unwrap_or(DOCKER_LAYER).to_owned();
        let blob = LayerBlob {
            diff: self.diff.clone(),
            repository: self.repository.to_owned(),
            digest: digest.clone(),
            size,
            media_type: media_type.clone(),
        };
        let images = Arc::clone(self.engine.images());
        blocking(move || images.note_blob(&blob)).await?;
        Ok(Descriptor { media_type, size, digest: digest.clone(), platform: None })
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

    fn id(&self) -> &str {
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

fn registry(error: RegistryError) -> EngineError {
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

/// Why a layer was not packed to its end.
enum Unpacked {
    Failed(EngineError),
    /// Nobody takes the pieces any more.
    Unwanted,
}

/// A layer's tar, compressed into pieces of a body. Blocks.
struct Packing {
    images: Arc<ImageStore>,
    chain: ChainId,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    tell: MessageSender,
    id: String,
}

impl Packing {
    fn run(self) -> Result<(Digest, u64), Unpacked> {
        let failed = |error: io::Error| {
            let reason = error.to_string();
            Unpacked::Failed(registry(RegistryError::Source { reason }))
        };
        let opened = self.images.layer_tar_size(&self.chain);
        let total = opened.map_err(|error| Unpacked::Failed(error.into()))?;
        let opened = self.images.layer_tar(&self.chain);
        let mut tar = opened.map_err(|error| Unpacked::Failed(error.into()))?;
        let out = Pieces { sender: self.pieces, piece: Vec::new(), hash: Hash::default(), size: 0 };
        let mut gzip = GzEncoder::new(out, Compression::default());
        let mut buffer = vec![0; PIECE];
        let (mut read, mut told) = (0, 0);
        loop {
            let got = match tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) => {
                    // A body that ended here would look whole.
                    gzip.get_ref().cut();
                    return Err(failed(error));
                }
            };
            gzip.write_all(&buffer[..got]).map_err(|_closed| Unpacked::Unwanted)?;
            read += got as u64;
            if read - told >= REPORT_EVERY || told == 0 {
                told = read;
                self.tell.try_send(far(&self.id, "Pushing", read, total));
            }
        }
        self.tell.try_send(far(&self.id, "Pushing", read, total));
        gzip.finish().and_then(Pieces::finish).map_err(|_closed| Unpacked::Unwanted)
    }
}

type Hash = sha2::Sha256;

/// Writes into pieces of a body, and hashes them.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    hash: Hash,
    size: u64,
}

impl Pieces {
    fn push(&mut self) -> io::Result<()> {
        use sha2::Digest as _;
        let piece = std::mem::take(&mut self.piece);
        self.hash.update(&piece);
        self.size += piece.len() as u64;
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Ends the body so that nobody takes it for the whole.
    fn cut(&self) {
        let cut = io::Error::other("the layer cannot be read");
        if self.sender.blocking_send(Err(cut)).is_err() {
            tracing::debug!("nobody takes the body any more");
        }
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        use sha2::Digest as _;
        if !self.piece.is_empty() {
            self.push()?;
        }
        Ok((Digest::from_hash(self.hash.finalize().as_slice()), self.size))
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.push()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
