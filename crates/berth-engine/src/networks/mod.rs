//! Networks: list and inspect; the predefined ones are all there are.

mod change;
mod inspect;
mod list;
mod prune;

use berth_api::json::{Dict, List};
use berth_api::network::{Ipam, IpamPool, Network};

/// The filters that `GET /networks` knows.
pub const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// The filters that `POST /networks/prune` knows.
pub const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// As the API shows a network, without its containers.
fn shown(network: berth_networks::Network) -> Network {
    let pool = network.subnet.map(|subnet| IpamPool {
        subnet: subnet.to_string(),
        gateway: network.gateway.map_or_else(String::new, |gateway| gateway.to_string()),
        ..IpamPool::default()
    });
    let config = match pool {
        Some(pool) => List::from(vec![pool]),
        None => List::null(),
    };
    Network {
        name: network.name,
        id: network.id.to_string(),
        created: network.created,
        scope: "local".to_owned(),
        driver: network.driver,
        enable_ipv4: true,
        ipam: Ipam { driver: "default".to_owned(), options: Dict::null(), config },
        options: network.options,
        ..Network::default()
    }
}
