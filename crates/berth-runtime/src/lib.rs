//! From Docker's container settings to a running process.
//!
//! * [`validate`] checks `Config` and `HostConfig` when a container is created and says what it
//!   will not do; [`spec::build`] turns them into an OCI spec when it is started.
//! * [`process`] does the same for `docker exec`.
//! * [`shim`] writes the bundle, starts the watcher `berth-shim` and speaks with it.
//! * [`host`] and [`cgroup`] say what this machine can do.
//! * [`seccomp`], [`devices`], [`caps`] and [`user`] are the parts of the spec with rules of their own.
//!
//! It mounts nothing and creates no cgroup: that is the watcher's work. Everything here is
//! synchronous and may be called from any thread.

#![forbid(unsafe_code)]

pub mod caps;
pub mod cgroup;
pub mod devices;
pub mod error;
pub mod fields;
pub mod host;
pub mod limits;
pub mod mounts;
pub mod process;
pub mod seccomp;
pub mod security;
pub mod selftest;
pub mod shim;
pub mod spec;
pub mod user;
pub mod validate;

pub use error::RuntimeError;
pub use host::Host;
pub use mounts::{Access, MountKind, ResolvedMount};
pub use process::ExecInput;
pub use shim::{Bundle, ShimHandle};
pub use spec::{EtcFiles, Network, SpecInput, Users, build};
pub use user::Accounts;
pub use validate::{check_remapped, validate};
