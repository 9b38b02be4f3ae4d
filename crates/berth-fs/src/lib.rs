//! Files, safely: atomic writes, locks, paths that stay beneath a directory, and layer tars.
//!
//! What comes from a client or an archive is resolved beneath a directory descriptor
//! ([`root`]); nothing here joins foreign names to host paths. The layer pipeline is
//! [`apply`]: decompress, hash, parse ([`tar`]), extract ([`unpack`]) and record
//! ([`tarsplit`]) in one pass. The way back is [`tarsplit::Assembler`] for a layer that came
//! as a tar, and [`pack`] for one that never was.
//!
//! Everything blocks; nothing here knows records, drivers or HTTP.

#![forbid(unsafe_code)]

pub mod allocated;
pub mod apply;
pub mod atomic;
mod capability;
pub mod changes;
pub mod copy;
pub mod decompress;
pub mod lock;
pub mod marks;
pub mod pack;
mod pool;
pub mod reserve;
pub mod root;
pub mod steps;
pub mod tar;
pub mod tarsplit;
pub mod unpack;

#[cfg(test)]
mod testing;
