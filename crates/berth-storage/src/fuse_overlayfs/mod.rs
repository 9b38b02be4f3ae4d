//! The `fuse-overlayfs` driver: `overlay2` where the kernel's overlayfs does not work. A helper
//! program serves each mount.
//!
//! The layout is Docker's, and that of [`stack`](crate::stack), below `fuse-overlayfs/`.
//!
//! The helper ends when its mount does, so the plan of a mount is all that its teardown needs.
//! Its write-back cache is switched off: what a container has written must be in its directory of
//! changes at once, for that is where `docker diff` and `docker commit` look.

mod driver;
mod helpers;
#[cfg(test)]
mod tests;

pub use driver::FuseOverlayfs;
