//! The engine as a whole: what it is, what it holds, and how it is put together from its
//! configuration.

mod df;
mod events;
mod info;
pub(crate) mod selinux;
mod version;

use std::net::Ipv4Addr;
use std::sync::Arc;

use berth_networks::{BridgeConfig, DnsConfig, NetworksConfig};
use berth_storage::{Selection, StorageDriver, select};

pub use events::EventStream;
pub(crate) use info::os_release;
pub(crate) use version::{VERSION, kernel, version};

use crate::config::EngineConfig;
use crate::error::EngineError;

/// Opens the storage driver that the configuration, the environment or the data root asks for.
pub(crate) fn open_driver(config: &EngineConfig) -> Result<Arc<dyn StorageDriver>, EngineError> {
    let set = |variable: &&'static str| {
        let name = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some((*variable, name))
    };
    let environment = select::VARIABLES.iter().find_map(set);
    let named = Some(config.storage_driver.as_str()).filter(|name| !name.is_empty());
    let environment =
        environment.as_ref().map(|(variable, name)| select::Environment { variable, name });
    Ok(select::open(&Selection {
        root: &config.data_root,
        name: named,
        environment,
        options: &config.storage_opts,
        owner: config.ids.root(),
        mapping: Some(config.mapping()),
    })?)
}

/// The networks' part of the configuration.
pub(crate) fn networks_config(config: &EngineConfig) -> Result<NetworksConfig, EngineError> {
    let bip = match config.bip.as_deref() {
        None => None,
        Some(text) => Some(parse_bip(text)?),
    };
    Ok(NetworksConfig {
        exec_root: config.exec_root.clone(),
        bridge: BridgeConfig {
            device: Some(config.bridge.clone()).filter(|device| device != "none"),
            bip,
            mtu: config.mtu.unwrap_or(0),
            icc: true,
            masquerade: config.ip_masq,
            forward: config.ip_forward,
            filter: config.iptables,
        },
        dns: DnsConfig {
            servers: config.dns.clone(),
            search: config.dns_search.clone(),
            options: config.dns_opts.clone(),
        },
    })
}

/// Reads an address with its network's prefix, such as `172.17.0.1/16`.
fn parse_bip(text: &str) -> Result<(Ipv4Addr, ipnet::Ipv4Net), EngineError> {
    let bad = || EngineError::Bip { text: text.to_owned() };
    let (address, _) = text.split_once('/').ok_or_else(bad)?;
    let address: Ipv4Addr = address.parse().map_err(|_not_an_address| bad())?;
    let network: ipnet::Ipv4Net = text.parse().map_err(|_not_a_network| bad())?;
    Ok((address, network.trunc()))
}
