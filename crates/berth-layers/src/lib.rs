//! The layer store: which layers exist, what they stand on, who needs them, and their bytes.
//!
//! Image layers are known by their [`ChainId`](berth_types::ChainId); a storage driver holds a
//! *realisation* of each under a random [`LayerId`](berth_types::LayerId). Containers' layers are
//! known by their container. A layer is kept as long as something needs it: an owner that
//! [retains](LayerStore::retain) it, a layer on top of it, or a container.
//!
//! Lookups and lists read records only; they never wait for a driver. Bytes are made before they
//! are recorded and removed after they are forgotten, and an *intent* in the database names every
//! driver layer in between, so that [`LayerStore::recover`] deletes those and nothing else.
//!
//! ```text
//! layers/<chain hex>/tar-split.json.gz   how to rebuild the layer's tar bit for bit
//! layers/<chain hex>/layer.json          which layer of which driver this is
//! layers/.berth-new-<layer id>/          the same while the layer is being made
//! layers/.berth-removing-<random>/       the same of a removed layer
//! ```
//!
//! All calls block and may come from any thread.

#![forbid(unsafe_code)]

mod activations;
mod backup;
mod beside;
pub mod check;
mod draft;
mod error;
mod files;
mod ingest;
mod init;
mod record;
mod recover;
pub mod repair;
mod rw;
mod store;
mod tar_stream;
mod template;

pub use backup::Hold;
pub use berth_fs::changes::{Change, ChangeKind};
pub use beside::Beside;
pub use draft::Draft;
pub use error::LayerError;
pub use ingest::{Applied, Ingest, NewLayer, Parent};
pub use record::SCHEMA;
pub use recover::RecoverReport;
pub use rw::Reach;
pub use store::{Layer, LayerStore, Removed, RwLayer, Settings};
pub use tar_stream::TarStream;
