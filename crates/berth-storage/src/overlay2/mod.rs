//! The `overlay2` driver: each layer is a directory of changes, stacked by overlayfs.
//!
//! The layout is Docker's, and that of [`stack`](crate::stack).
//!
//! `redirect_dir` and `metacopy` are switched off in each mount where the kernel has them on by
//! default, so that a layer's directory always holds exactly its changes.

mod driver;
mod mapped;
#[cfg(test)]
mod tests;

pub use driver::Overlay2;
