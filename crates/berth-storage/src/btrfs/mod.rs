//! The `btrfs` driver: each layer is a subvolume, begun as a snapshot of what it stands on.
//!
//! The layout is Docker's:
//!
//! ```text
//! btrfs/                  0710
//!   subvolumes/<id>       a subvolume: the layer's whole content; read-only once it is frozen
//!   quotas/<id>           the size that was asked for, in bytes, decimal; only with `size`
//! ```
//!
//! beside the names that [`home`](crate::home) describes, below `subvolumes/`.
//!
//! A snapshot appears whole, under its own name, and is on the disk when the call returns: it
//! needs no staging name. Nothing is ever mounted.

mod destroy;
mod driver;
mod layout;
mod recover;
#[cfg(test)]
mod tests;
mod transfer;

pub use driver::Btrfs;
pub(crate) use transfer::{discard, transfer};
