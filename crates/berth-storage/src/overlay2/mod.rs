//! The `overlay2` driver: each layer is a directory of changes, stacked by overlayfs.
//!
//! The layout is Docker's:
//!
//! ```text
//! overlay2/                 0710
//!   l/<26 characters>       link to ../<id>/diff: short names for the mount options
//!   <id>/                   0710
//!     diff/                 the layer's own changes
//!     link                  its name below l/
//!     lower                 l/AAA:l/BBB:…, nearest first; only on top of another layer
//!     work/                 overlayfs' own; only on top of another layer
//!     merged/               only while mounted
//!     committed             empty; the layer is frozen and is only mounted read-only
//! ```
//!
//! beside the names that [`home`](crate::home) describes.
//!
//! A layer may be created and filled before its parent is filled, since only `lower` ties them.
//! `redirect_dir` and `metacopy` are switched off in each mount where the kernel has them on by
//! default, so that a layer's directory always holds exactly its changes.

mod driver;
mod layout;
mod probe;
mod recover;
#[cfg(test)]
mod tests;

pub use driver::Overlay2;
