//! Images: configurations, names, history, and the archives that carry them.
//!
//! [`ImageStore`] keeps the records; the bytes of layers are the layer store's. It answers with
//! records and what follows from them, and knows no containers: who uses an image is passed in.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the configuration JSON whose digest is the image's id |
//! | [`changes`] | the Dockerfile instructions of `commit --change` and `import --change` |
//! | [`load`] | archives in: docker-archive of every age, OCI layout |
//! | [`save`] | archives out: one that is both |
//! | [`pull`] | an image from a registry, whose layers arrive in any order |
//! | [`import`] | a file system's tar becomes an image |
//! | [`remove`] | untag, remove, and what stands against it |
//! | [`list`] | lists, filters, inspect, history |

#![forbid(unsafe_code)]

mod archive;
mod blobs;
pub mod changes;
pub mod config;
mod error;
mod hold;
pub mod import;
pub mod list;
pub mod load;
pub mod pull;
pub mod remove;
pub mod save;
mod store;
mod tag;

pub use archive::ArchiveError;
pub use blobs::LayerBlob;
pub use config::{History, ImageConfig, NewConfig};
pub use error::{Conflict, ImageError};
pub use hold::Hold;
pub use store::{Image, ImageStore, NewImage, SCHEMA};
pub use tag::parse_repo_tag;
