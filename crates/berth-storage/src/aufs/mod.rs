//! The `aufs` driver, deprecated: each layer is a directory of changes, stacked by aufs, which no
//! distribution's kernel has any more.
//!
//! The layout is Docker's, and `committed/`:
//!
//! ```text
//! aufs/               0710
//!   diff/<id>/        the layer's own changes; whiteouts are files, see `berth_fs::marks`
//!   layers/<id>       the layers that it stands on, nearest first, one a line; empty for none
//!   mnt/<id>/         where it is mounted; empty otherwise
//!   committed/<id>    empty; the layer is frozen and is only mounted read-only
//! ```
//!
//! beside the names that [`home`](crate::home) describes, below `diff/`. A layer is there when its
//! directory in `diff/` is; what the others say of a layer that is not, [`recover`] removes.
//!
//! In a directory that was mounted to be written aufs keeps `.wh..wh.aufs`, `.wh..wh.orph/` and
//! `.wh..wh.plnk/` for itself; no layer's tar has them.

mod driver;
mod layout;
mod plan;
mod probe;
mod recover;
#[cfg(test)]
mod tests;
mod transfer;

pub use driver::Aufs;
pub(crate) use transfer::transfer;
