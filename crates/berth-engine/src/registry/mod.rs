//! Images from registries and to them.
//!
//! | module | what |
//! |---|---|
//! | [`pull`] | `docker pull`: names, endpoints, manifests, and the record in the end |
//! | [`layers`] | the layers of one image: each downloaded, verified, unpacked |
//! | [`transfers`] | downloads that several pulls share, and the files that they leave |
//! | [`recording`] | blobs whose layers are being recorded |
//! | [`push`], [`push_one`], [`send`] | `docker push`: the images, each image, each layer |
//! | [`again`], [`shown`], [`offer`] | a push of what was pushed before, in one request where the registry looks; how it shows that it does |
//! | [`upload`], [`pack`] | a layer that is sent, and again when it was cut; the body of an upload |
//! | [`addresses`] | the addresses of a registry, in Docker's order |
//! | [`ask`] | `docker login`, and looking at a registry without pulling |

mod addresses;
mod again;
mod ask;
mod error;
mod layers;
mod limiter;
mod offer;
mod pack;
mod progress;
mod pull;
mod push;
mod push_one;
mod recording;
mod send;
mod shown;
mod transfers;
mod upload;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use berth_images::ImageStore;
use berth_registry::Clients;
use berth_types::Digest;
use tokio::sync::Semaphore;

pub use berth_registry::{Credentials, KnownRegistries, Limits, RegistryError, RegistryOptions};
pub use error::RegistryUseError;
pub use pull::{PullRequest, Started};
pub use push::PushRequest;

pub(crate) use progress::{bar, far};

use limiter::Limiter;
use recording::Recording;
use shown::Repositories;
use transfers::Transfers;

/// Which registries are used, and how much at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Mirrors, and what is trusted.
    pub options: RegistryOptions,
    /// How many blobs are downloaded at a time.
    pub downloads: usize,
    /// How many layers are sent at a time.
    pub uploads: usize,
    /// How long things may take, and how often they are tried.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            options: RegistryOptions::default(),
            downloads: 3,
            uploads: 5,
            limits: Limits::default(),
        }
    }
}

/// What is under way with registries.
#[derive(Debug)]
pub(crate) struct Registries {
    transfers: Arc<Transfers>,
    recording: Arc<Recording>,
    /// Connections to registries, for the next pull or push.
    clients: Arc<Clients>,
    uploads: Limiter,
    /// Layers that are unpacked at the same time.
    unpacking: Arc<Semaphore>,
    /// What the registries of repositories have shown of themselves.
    repositories: Repositories,
    /// Layers on their way, each to one repository: a second push waits and finds it there.
    sending: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Registries {
    /// Over the directory of unfinished downloads below the data root. Reads it.
    pub(crate) fn open(
        data_root: &Path,
        config: &RegistryConfig,
        images: &ImageStore,
    ) -> std::io::Result<Self> {
        let is_recorded = |digest: &Digest| {
            images.knows_blob(digest).unwrap_or_else(|error| {
                tracing::warn!(error = berth_types::kind::chain(&error), "a download is kept");
                false
            })
        };
        let dir = data_root.join("downloads");
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Ok(Self {
            transfers: Transfers::open(&dir, config.downloads, is_recorded)?,
            recording: Arc::default(),
            clients: Arc::default(),
            uploads: Limiter::new(config.uploads),
            unpacking: Arc::new(Semaphore::new(threads.max(2))),
            repositories: Repositories::default(),
            sending: Mutex::default(),
        })
    }

    fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Takes over new numbers.
    pub(crate) fn reload(&self, config: &RegistryConfig) {
        self.transfers.slots().resize(config.downloads);
        self.uploads.resize(config.uploads);
    }

    /// Removes what pulls left unfinished and nobody works on; how many bytes that was.
    pub(crate) fn clear_idle(&self) -> u64 {
        self.transfers.clear_idle()
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        sending.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = sending.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        sending.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}
