//! The kernel calls that need care: mounts, processes, terminals, namespaces, BPF,
//! the device-mapper.
//!
//! Every `unsafe` block of berth is in this crate; what rustix offers safely is used as it is,
//! wrapped only where berth's other crates would otherwise repeat themselves. One module per
//! theme. Nothing here knows layers, containers or configuration, and nothing logs.

pub mod block;
pub mod bpf;
pub mod btrfs;
pub mod caps;
pub mod copy;
pub mod dm;
pub mod fork;
pub mod fsinfo;
pub mod handle;
pub mod listen;
pub mod loopdev;
pub mod mount;
pub mod mountinfo;
pub mod mountns;
pub mod netns;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod system;
pub mod thread;
pub mod tty;
pub mod userns;
