//! The layers of one image: each downloaded, verified and unpacked, while others arrive.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_images::pull::Pulling;
use berth_images::{ImageConfig, ImageError};
use berth_registry::RegistryError;
use berth_registry::download::{Source, Step};
use berth_registry::manifest::Descriptor;
use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::Registries;
use super::error::RegistryUseError;
use super::progress::{far, layer};
use super::transfers::{State, Transfer};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::MessageSender;

/// How many bytes of a blob are unpacked between two reports.
const REPORT_EVERY: u64 = 512 << 10;

/// An image whose layers arrive. Dropping it undoes what was not recorded, in the background.
pub(super) struct Arriving {
    engine: Engine,
    pulling: Option<Arc<Pulling>>,
    /// The download of each missing layer, until it is looked at.
    begun: Mutex<Vec<Option<Begun>>>,
    transfers: Mutex<Vec<Arc<Transfer>>>,
}

/// A download, and whether it was begun for this.
type Begun = (Arc<Transfer>, bool);

impl Arriving {
    /// Begins to make an image, once what is there of it is whole.
    pub(super) async fn begin(
        engine: &Engine,
        config: &ImageConfig,
        blobs: &[Descriptor],
        source: &Source,
        tell: &MessageSender,
    ) -> Result<Self, EngineError> {
        loop {
            let begun = Self::begin_once(engine, config, blobs, source, tell).await?;
            if let Some(this) = begun {
                return Ok(this);
            }
        }
    }

    /// `None` when another pull may have recorded a layer that this one found missing.
    async fn begin_once(
        engine: &Engine,
        config: &ImageConfig,
        blobs: &[Descriptor],
        source: &Source,
        tell: &MessageSender,
    ) -> Result<Option<Self>, EngineError> {
        let mut this = Self {
            engine: engine.clone(),
            pulling: None,
            begun: Mutex::default(),
            transfers: Mutex::default(),
        };
        let mended = this.mend(config, blobs, source, tell).await;
        this.unless_passing(mended)?;
        let digests: Vec<_> = blobs.iter().map(|blob| blob.digest.clone()).collect();
        let Registries { transfers, recording, .. } = engine.registries();
        let moment = recording.wait(&digests).await;
        let (images, config) = (Arc::clone(engine.images()), config.clone());
        let pulling = Arc::new(blocking(move || images.begin_pull(config)).await?);
        this.pulling = Some(Arc::clone(&pulling));
        let missing = pulling.missing();
        if !missing.is_empty() {
            engine.check_room().await?;
        }
        let get = |&index: &usize| Some(transfers.get(&blobs[index], source.clone()));
        let begun = recording.unless_since(moment, &digests, || missing.iter().map(get).collect());
        let Some(begun) = begun else {
            // Of layers that were mended.
            drop(this.used());
            return Ok(None);
        };
        this.begun = Mutex::new(begun);
        Ok(Some(this))
    }

    /// Fills layers again that a repair found damaged, each after its parent. Before anything is
    /// made on top, for most drivers copy what is below.
    async fn mend(
        &self,
        config: &ImageConfig,
        blobs: &[Descriptor],
        source: &Source,
        tell: &MessageSender,
    ) -> Result<(), EngineError> {
        let (images, of) = (Arc::clone(self.engine.images()), config.clone());
        let damaged = blocking(move || images.damaged_layers(&of)).await?;
        for &index in &damaged {
            tell.tell(layer(blobs[index].digest.short(), "Pulling fs layer")).await;
        }
        for index in damaged {
            let one = Layer { all: self, blob: &blobs[index], source, tell };
            let transfer = one.download(None).await?;
            tell.tell(layer(one.id(), "Download complete")).await;
            let (images, config) = (Arc::clone(self.engine.images()), config.clone());
            one.unpack(&transfer, move |blob| images.mend_layer(&config, index, blob)).await?;
            tell.tell(layer(one.id(), "Pull complete")).await;
        }
        Ok(())
    }

    pub(super) fn pulling(&self) -> &Arc<Pulling> {
        self.pulling.as_ref().expect("there until it is dropped")
    }

    /// Brings all missing layers in.
    pub(super) async fn fetch(
        &self,
        blobs: &[Descriptor],
        source: &Source,
        tell: &MessageSender,
    ) -> Result<(), EngineError> {
        let pulling = Arc::clone(self.pulling());
        for (index, blob) in blobs.iter().enumerate() {
            let is_missing = pulling.missing().contains(&index);
            let status = if is_missing { "Pulling fs layer" } else { "Already exists" };
            tell.tell(layer(blob.digest.short(), status)).await;
        }
        // How many slots are unpacked, for drivers that want each layer after its parent.
        let unpacked = watch::Sender::new(0_usize);
        let all = pulling.missing().iter().enumerate().map(|(slot, &index)| {
            let one = Layer { all: self, blob: &blobs[index], source, tell };
            one.bring(slot, &unpacked)
        });
        let fetched = try_join_all(all).await.map(drop);
        self.unless_passing(fetched)
    }

    /// Lets go of the files when the same pull cannot do better later.
    fn unless_passing(&self, result: Result<(), EngineError>) -> Result<(), EngineError> {
        if let Err(error) = &result
            && !is_passing(error)
        {
            drop(self.used());
        }
        result
    }

    /// Every layer is unpacked, or none ever will be: the files of the blobs go with what this
    /// returns, unless another pull wants them.
    pub(super) fn used(&self) -> Vec<Arc<Transfer>> {
        let used = mem::take(&mut *self.transfers());
        for transfer in &used {
            transfer.used();
        }
        used
    }

    fn transfers(&self) -> MutexGuard<'_, Vec<Arc<Transfer>>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(pulling) = self.pulling.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let engine = self.engine.clone();
            runtime.spawn_blocking(move || {
                drop(pulling);
                // What a failure, or a pull of the same layers at the same time, left in the trash.
                engine.reap_later();
            });
        }
    }
}

/// Whether the same pull may do better later, with what has arrived by now.
fn is_passing(error: &EngineError) -> bool {
    let EngineError::Registry(error) = error else { return false };
    matches!(&**error, RegistryUseError::Registry(error) if error.is_passing())
}

struct Layer<'a> {
    all: &'a Arriving,
    blob: &'a Descriptor,
    source: &'a Source,
    tell: &'a MessageSender,
}

impl Layer<'_> {
    fn id(&self) -> &str {
        self.blob.digest.short()
    }

    async fn bring(self, slot: usize, unpacked: &watch::Sender<usize>) -> Result<(), EngineError> {
        let begun = self.all.begun.lock().unwrap_or_else(PoisonError::into_inner)[slot].take();
        let transfer = self.download(begun).await?;
        self.tell.tell(layer(self.id(), "Download complete")).await;
        let pulling = Arc::clone(self.all.pulling());
        if !pulling.is_concurrent() {
            let turn = unpacked.subscribe().wait_for(|done| *done == slot).await.map(drop);
            turn.expect("the sender lives as long as this");
        }
        self.unpack(&transfer, move |blob| pulling.apply(slot, blob)).await?;
        unpacked.send_modify(|done| *done += 1);
        self.tell.tell(layer(self.id(), "Pull complete")).await;
        Ok(())
    }

    /// Another pull's download may fail for reasons of its own, such as its credentials; then it is
    /// tried with ours.
    async fn download(&self, mut begun: Option<Begun>) -> Result<Arc<Transfer>, EngineError> {
        loop {
            let transfers = &self.all.engine.registries().transfers;
            let new = || transfers.get(self.blob, self.source.clone());
            let (transfer, is_own) = begun.take().unwrap_or_else(new);
            self.all.transfers().push(Arc::clone(&transfer));
            match self.follow(&transfer).await {
                Ok(()) => return Ok(transfer),
                Err(error) if is_own => return Err(RegistryUseError::Registry(error).into()),
                Err(error) => tracing::debug!(%error, "another pull's download failed"),
            }
        }
    }

    async fn follow(&self, transfer: &Transfer) -> Result<(), RegistryError> {
        let mut state = transfer.state();
        let mut told = None;
        loop {
            let now = state.borrow_and_update().clone();
            let status = match &now {
                State::Done => return Ok(()),
                State::Failed(error) => return Err(error.clone()),
                State::Queued => "Waiting".to_owned(),
                State::At(Step::Verifying) => "Verifying Checksum".to_owned(),
                State::At(Step::Waiting(seconds)) => {
                    let plural = if *seconds == 1 { "" } else { "s" };
                    format!("Retrying in {seconds} second{plural}")
                }
                State::At(Step::Got(0)) => String::new(),
                State::At(Step::Got(bytes)) => {
                    let message = far(self.id(), "Downloading", *bytes, self.blob.size);
                    self.tell.try_send(message);
                    String::new()
                }
            };
            if !status.is_empty() && told.as_ref() != Some(&status) {
                self.tell.tell(layer(self.id(), status.clone())).await;
            }
            told = Some(status);
            if state.changed().await.is_err() {
                // Its task is gone with the runtime.
                return Err(RegistryError::Cut);
            }
        }
    }

    /// Hands the blob over, no more of them at the same time than is good.
    async fn unpack(
        &self,
        transfer: &Transfer,
        take: impl FnOnce(Watched) -> Result<(), ImageError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let registries = self.all.engine.registries();
        let place = Arc::clone(&registries.unpacking).acquire_owned().await;
        let place = place.expect("nobody closes it");
        let path = transfer.path();
        let (tell, id, total) = (self.tell.clone(), self.id().to_owned(), self.blob.size);
        blocking(move || {
            // Also when nobody waits for it any more.
            let _place = place;
            let file = File::open(&path).map_err(EngineError::io("open", &path))?;
            let blob = Watched { file, tell, id, total, read: 0, told: 0 };
            take(blob).map_err(|error| match error {
                ImageError::ForeignLayer => RegistryUseError::ForeignLayers.into(),
                error => EngineError::from(error),
            })
        })
        .await
    }
}

/// A blob that tells how far it has been read, and ends when nobody wants it any more.
struct Watched {
    file: File,
    tell: MessageSender,
    id: String,
    total: u64,
    read: u64,
    told: u64,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tell.is_closed() {
            return Err(io::Error::other("the client left"));
        }
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        if self.read - self.told >= REPORT_EVERY || (read == 0 && self.told < self.read) {
            self.told = self.read;
            self.tell.try_send(far(&self.id, "Extracting", self.read, self.total));
        }
        Ok(read)
    }
}
