//! Volumes: directories under `<data-root>/volumes` that outlive containers, and the rules by
//! which `-v`, `--mount`, `VOLUME` and `--volumes-from` become mount points.
//!
//! Not here: mounting into a container (the watcher does that), and HTTP. Calls block and may come
//! from any thread.
//!
//! ```text
//! volumes/                      0701
//! ├── NAME/                     0701
//! │   ├── _data/                0755, the content
//! │   ├── opts.json             0600, only when options were given
//! │   ├── .berth-populate/      a copy from an image that is not complete; recover() removes it
//! │   └── .berth-populated/     a complete copy on its way into _data; recover() finishes it
//! ├── .berth-create-NAME/       a volume that has no record yet
//! └── .berth-remove-NAME/       a volume on its way out
//! ```
//!
//! A directory with a volume's name and no record is a volume all the same (as Docker has it), and
//! is never removed unless somebody asks.

#![forbid(unsafe_code)]

mod error;
mod filter;
pub mod mounts;
mod name;
mod names;
mod options;
mod store;

pub use error::VolumeError;
pub use filter::{PruneFilter, VolumeFilter};
pub use name::{anonymous_name, check_name};
pub use options::LocalOptions;
pub use store::{
    ANONYMOUS_LABEL, NewVolume, Pruned, Recovered, SCHEMA, Staged, Volume, VolumeRef, VolumeStore,
};
