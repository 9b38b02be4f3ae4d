//! Networks: the predefined `bridge`, `host` and `none`, and what a container needs of them: its
//! network namespace, the veth pair, address, routes, masquerade, and the files `/etc/hosts`,
//! `/etc/hostname` and `/etc/resolv.conf`.
//!
//! Not here: user-defined networks, published ports and DNS; a request for them is refused by
//! name. Calls block and may come from any thread.
//!
//! ```text
//! <exec-root>/netns/SHORT       the namespace of a container, a bind mount of nsfs
//! <exec-root>/endpoints/ID      what the container has: network, address, MAC, interface
//! ```
//!
//! Both live as long as the machine is up, as the containers do; nothing about an endpoint is in
//! the database.

#![forbid(unsafe_code)]

mod bridge;
mod config;
mod error;
mod files;
mod filter;
mod filter_rules;
mod netlink;
mod records;
mod request;
mod sandbox;
mod store;

pub use config::{BridgeConfig, DnsConfig, NetworksConfig};
pub use error::NetworkError;
pub use files::{NameFiles, check_extra_hosts};
pub use filter::NetworkFilter;
pub use records::SCHEMA;
pub use request::{Mode, Requested, check};
pub use store::{Endpoint, Network, Networks, Plug, Recovered, Sandbox};
