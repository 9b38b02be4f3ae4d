//! The `devicemapper` driver: each layer is a thin device with a file system of its own, begun as a
//! snapshot of the device that it stands on.
//!
//! The layout is Docker's, but for what begins with `.berth-`, `committed/` and `tmp/`:
//!
//! ```text
//! devicemapper/                       0700
//!   devicemapper/data, metadata       sparse files, 0600: what the pool of loop-lvm lies on
//!   metadata/                         0700
//!     base                            a device: JSON with its number, size, transaction
//!     <id>                            a layer's
//!     .berth-creating-<id>            of a layer that is not finished
//!     .berth-removing-<id>-<n>        of a layer that was removed and waits to be deleted
//!     .berth-aside-<id>-<n>           of a layer that no record knew and that could not be copied
//!     .berth-snapshot-<name>          a copy that an administrator asked for
//!     .berth-spare                    what the next layer without a parent becomes
//!     deviceset-metadata              the base device's file system and its UUID
//!     transaction-metadata            the change that was begun last
//!   committed/<id>                    empty; the layer is frozen
//!   mnt/<id>                          where a layer is mounted; empty while it is not
//!   tmp/                              mounts that the driver makes for itself
//!   setup-config.json                 what an automatic direct-lvm was made of
//!   .berth-setup                      the disk of one that is being made
//!   .berth-base                       the UUID of a base device that has `rootfs/`
//! ```
//!
//! A device's file system has the layer in `rootfs/`, and beside it `id`, which says what was made
//! first of those that it is a snapshot of: `base`, or the layer at the bottom.
//!
//! Making and deleting a device changes both a file and the pool. Each change is noted before it
//! begins, with the number that the pool's own counter gets when it is done. A start that finds
//! the counter one behind deletes that device.

mod base;
mod devices;
mod driver;
mod error;
mod filesystem;
mod forecast;
mod grow;
mod layers;
mod layout;
mod lvm;
mod lvm_extend;
mod mapper;
mod options;
mod pool;
mod reap;
mod records;
mod recover;
mod set;
mod spare;
mod status;
#[cfg(test)]
mod tests;
mod watch;

pub use driver::Devicemapper;
pub use error::DevicemapperError;
