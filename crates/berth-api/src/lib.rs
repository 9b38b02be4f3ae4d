//! Docker's messages: the JSON of API 1.24 to 1.51, and what its query strings mean.
//!
//! One current type per message; versions differ by small functions on [`ApiVersion`], never by
//! copies of a type. Every message can be read back from what it prints. Bodies from clients are
//! read with [`go`], which forgives what Go's decoder forgives. Field names are Docker's; their
//! meaning is documented in Docker's API reference.

#![forbid(unsafe_code)]

pub mod container;
pub mod daemon;
pub mod event;
pub mod exec;
pub mod file_mode;
pub mod filters;
pub mod go;
pub mod image;
pub mod json;
pub mod network;
pub mod options;
pub mod query;
pub mod registry;
pub mod version;
pub mod volume;

pub use filters::{FilterError, Filters};
pub use json::{Dict, Empty, List, StrSlice};
pub use query::DockerBool;
pub use version::{ApiVersion, VersionError};
