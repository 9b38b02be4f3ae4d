//! Ids, digests, references, sizes and error kinds that every crate shares.
//!
//! Nothing here does I/O. Each id type can only be made valid: parse it, or make a random one.

#![forbid(unsafe_code)]

pub mod digest;
pub mod duration;
pub mod id;
pub mod idmap;
pub mod kind;
pub mod reference;
pub mod size;
pub mod time;

pub use digest::{ChainId, DiffId, Digest, DigestError, ImageId};
pub use id::{ContainerId, HexId, IdError, LayerId};
pub use idmap::{IdMap, IdMapError, IdMaps, IdRange, Owner};
pub use kind::{Classify, ErrorKind};
pub use reference::{Reference, ReferenceError};
pub use time::Timestamp;
