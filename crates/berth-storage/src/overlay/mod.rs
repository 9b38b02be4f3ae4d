//! The `overlay` driver, deprecated: each image layer is a full tree whose unchanged files are
//! hard links to those of the layer below; containers' layers are stacked on one such tree.
//!
//! The layout is Docker's:
//!
//! ```text
//! overlay/          0710
//!   <id>/           0710; an image layer
//!     root/         its whole content
//!     committed     empty; the layer is frozen
//!   <id>/           0710; a container's layer or its init layer
//!     upper/        what was changed since the image
//!     work/         0700, overlayfs' own
//!     merged/       only while mounted
//!     lower-id      the image layer whose root is below
//!     committed     empty; the layer is frozen
//! ```
//!
//! beside the names that [`home`](crate::home) describes.
//!
//! A container's layer begins as a copy of its init layer's `upper`. Whoever fills an image
//! layer replaces files and never changes one in place: its content is the parent's as well.

mod driver;
mod layout;
mod recover;
#[cfg(test)]
mod tests;
mod transfer;

pub use driver::Overlay;
pub(crate) use transfer::transfer;
