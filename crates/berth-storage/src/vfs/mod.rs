//! The `vfs` driver: each layer is a full copy. Slow and large, and works on any file system.
//!
//! ```text
//! vfs/                0710
//!   dir/<id>/         the layer's whole content
//!   committed/<id>    empty; the layer is frozen
//! ```
//!
//! beside the names that [`home`](crate::home) describes, below `dir/`. Unlike Docker's, copies
//! keep all extended attributes.

mod driver;
mod recover;
#[cfg(test)]
mod tests;
mod transfer;

pub use driver::Vfs;
pub(crate) use transfer::transfer;

const DIR: &str = "dir";
