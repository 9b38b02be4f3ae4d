//! The `zfs` driver: each layer is a dataset, begun as a clone of what it stands on.
//!
//! The layout is Docker's, but for what begins with `.berth-` and the snapshots, of which a layer has
//! one, from the moment it is frozen:
//!
//! ```text
//! <fsname>                             `zfs.fsname`, or the dataset that the data root is on
//!   berth:home=<64 hex>                whose it is: what `.berth-home` says
//! <fsname>/<id>                        a layer; mountpoint=legacy, berth:layer=yes
//! <fsname>/<id>@committed              the layer is frozen; layers above it are clones of this
//! <fsname>/.berth-creating-<id>        a layer whose root is being given to its owner
//! <fsname>/.berth-removing-<id>-<n>    a layer that was removed and waits to be destroyed
//! <fsname>/.berth-aside-<id>-<n>       a layer that no record knew
//!
//! zfs/               0710
//!   graph/<id>       where a layer is mounted
//!   .berth-home      the dataset's name and the number that it has as `berth:home`
//! ```
//!
//! Everything is done by the commands `zfs` and `zpool`, each of which returns when what it did
//! survives a power cut: one for a new layer, one to freeze it, one to remove it. What there is, is
//! read when the driver is opened and kept in memory, so that nothing else starts a process.
//!
//! A removed layer stays under its trash name until its clones are gone: it holds nothing that they do
//! not hold.

mod command;
mod driver;
mod error;
mod home;
mod listing;
mod names;
mod open;
mod reap;
mod set;
mod status;
#[cfg(test)]
mod tests;

pub use driver::Zfs;
pub use error::ZfsError;
