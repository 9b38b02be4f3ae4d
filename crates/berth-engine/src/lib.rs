//! The use cases: what a client can ask for, one module each, over the stores and drivers below.
//!
//! [`Engine`] is a cheap handle that every request clones. It has no business with HTTP: the edge
//! parses, calls one method here, and answers.
//!
//! The stores and drivers below are synchronous; [`blocking`] is the one place where async code
//! crosses over to them. No lock is held over a call to a driver, the network or a watcher, but for the operations of
//! one container that must exclude each other.

#![forbid(unsafe_code)]

mod blocking;
pub mod build;
pub mod config;
pub mod containers;
pub mod data_root;
mod engine;
mod error;
mod events;
pub mod images;
mod metrics;
pub mod networks;
mod pieces;
pub mod registry;
pub mod storage;
mod system;
pub mod volumes;

pub use berth_layers::check::Depth;
pub use blocking::blocking;
pub use config::{EngineConfig, Reloadable};
pub use engine::Engine;
pub use error::{ContainerError, EngineError, TaskError};
pub use events::Events;
pub use pieces::ByteStream;
pub use system::EventStream;
