//! The networks of one daemon.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_api::container::{EndpointSettings, NetworkSettings};
use berth_db::Db;
use berth_fs::atomic::Durability;
use berth_types::{ContainerId, HexId, Timestamp};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::bridge::{self, Bridge};
use crate::{Mode, NetworkError, NetworkFilter, NetworksConfig, records, sandbox};

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// `bridge`, `host` or `none`.
    pub name: String,
    /// Its id, made once.
    pub id: HexId,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// When its record was made.
    pub created: Timestamp,
    /// The bridge's addresses.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// The driver's options, as inspect shows them.
    pub options: BTreeMap<String, String>,
}

/// What a container that starts asks for.
#[derive(Debug, Clone)]
pub struct Plug<'a> {
    /// The container.
    pub container: &'a ContainerId,
    /// Its network.
    pub mode: Mode,
    /// `--mac-address`; empty: made from the address.
    pub mac: &'a str,
    /// Leave IPv6 switched on for the interface, because the container has sysctls for it.
    pub keep_ipv6: bool,
    /// A network namespace that was made for it; without one it is made here.
    pub namespace: Option<&'a Path>,
}

/// A container's end of a network. Serialized beside the namespace while the container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container.
    pub container: ContainerId,
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: HexId,
    /// The endpoint's own id.
    pub id: HexId,
    /// The sandbox's id, as inspect shows it.
    pub sandbox: HexId,
    /// The namespace file; empty on the host's network.
    pub namespace: PathBuf,
    /// The host's end of the veth pair; empty without one.
    pub interface: String,
    /// MAC address; empty without one.
    pub mac: String,
    /// Address.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix; 0 without an address.
    pub prefix: u8,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
}

/// What [`Networks::connect`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The namespace that the runtime enters; `None`: the host's.
    pub namespace: Option<PathBuf>,
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// What [`Networks::recover`] cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Containers whose leftovers were removed (id, or the name of the file).
    pub cleared: Vec<String>,
}

/// The networks of one daemon.
#[derive(Debug)]
pub struct Networks {
    config: NetworksConfig,
    db: Arc<Db>,
    records: Vec<Network>,
    state: Mutex<State>,
    /// One at a time makes the bridge.
    starting: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    bridge: Option<Bridge>,
    warnings: Vec<String>,
    endpoints: HashMap<ContainerId, Endpoint>,
}

impl Networks {
    /// Opens the records and makes those of the predefined networks when they are missing.
    /// Touches no interface.
    pub fn open(config: NetworksConfig, db: Arc<Db>) -> Result<Self, NetworkError> {
        let records = db.write(|tx| records::ensure(tx, &config.bridge))?;
        for dir in [config.exec_root.join(sandbox::NAMESPACES), config.exec_root.join(ENDPOINTS)] {
            std::fs::create_dir_all(&dir).map_err(NetworkError::io("create the directory", dir))?;
        }
        let (state, starting) = (Mutex::default(), Mutex::default());
        Ok(Self { config, db, records, state, starting })
    }

    /// Makes the bridge, its address, forwarding and masquerade. Answers warnings for the log and
    /// for `docker info` (a missing nft and iptables, named with their packages). When it fails
    /// the daemon can go on: the next [`connect`](Self::connect) tries again.
    pub fn start(&self) -> Result<Vec<String>, NetworkError> {
        if self.config.bridge.device.is_some() {
            self.make_bridge()?;
        }
        Ok(self.warnings())
    }

    /// The warnings of the last start.
    pub fn warnings(&self) -> Vec<String> {
        self.state().warnings.clone()
    }

    /// Every network the filter takes, by name.
    pub fn list(&self, filter: &NetworkFilter) -> Vec<Network> {
        let all = self.records.iter().map(|record| self.complete(record));
        all.filter(|network| filter.takes(network)).collect()
    }

    /// By full id, then name, then unique prefix of the id.
    pub fn find(&self, reference: &str) -> Result<Network, NetworkError> {
        let exact = |record: &&Network| record.id.as_str() == reference;
        let named = |record: &&Network| record.name == reference;
        let found = self.records.iter().find(exact).or_else(|| self.records.iter().find(named));
        if let Some(record) = found {
            return Ok(self.complete(record));
        }
        let starts = |record: &&Network| record.id.as_str().starts_with(reference);
        let matches: Vec<&Network> = self.records.iter().filter(starts).collect();
        match matches.as_slice() {
            [one] if !reference.is_empty() => Ok(self.complete(one)),
            [_, ..] if !reference.is_empty() => Err(NetworkError::Ambiguous {
                prefix: reference.to_owned(),
                matches: matches.len(),
            }),
            _ => Err(NetworkError::NotFound { name: reference.to_owned() }),
        }
    }

    /// The network of a mode.
    pub fn of_mode(&self, mode: Mode) -> Network {
        self.complete(self.record(mode))
    }

    /// The bridge's own address, what `host-gateway` stands for; `None` before it is made.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.state().bridge.map(|bridge| bridge.gateway)
    }

    /// Gives a container its network. What is there from an earlier run is cleared first; when it
    /// fails nothing is left.
    pub fn connect(&self, plug: &Plug<'_>) -> Result<Sandbox, NetworkError> {
        self.disconnect(plug.container)?;
        let bridge = match plug.mode {
            Mode::Bridge => Some(self.bridge()?),
            Mode::Host | Mode::None => None,
        };
        let endpoint = self.reserve(plug, bridge)?;
        if let Err(error) = self.set_up(&endpoint, plug, bridge) {
            if let Err(undo) = self.disconnect(plug.container) {
                let undo = berth_types::kind::chain(&undo);
                tracing::warn!(container = %plug.container, error = undo, "network leftovers");
            }
            return Err(error);
        }
        let namespace = (plug.mode != Mode::Host).then(|| endpoint.namespace.clone());
        Ok(Sandbox { namespace, endpoint })
    }

    /// Takes a container off its network and removes its namespace; idempotent. Answers the
    /// endpoint it had.
    pub fn disconnect(&self, container: &ContainerId) -> Result<Option<Endpoint>, NetworkError> {
        let Some(endpoint) = self.endpoint(container) else { return Ok(None) };
        sandbox::let_go(&endpoint)?;
        let file = self.endpoint_file(container);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(NetworkError::io("remove", file)(error));
            }
            _ => {}
        }
        self.state().endpoints.remove(container);
        Ok(Some(endpoint))
    }

    /// The endpoint of a running container.
    pub fn endpoint(&self, container: &ContainerId) -> Option<Endpoint> {
        self.state().endpoints.get(container).cloned()
    }

    /// The endpoints of a network, by container.
    pub fn endpoints(&self, network: &HexId) -> Vec<Endpoint> {
        let state = self.state();
        let on_it = state.endpoints.values().filter(|endpoint| endpoint.network_id == *network);
        let mut endpoints: Vec<Endpoint> = on_it.cloned().collect();
        endpoints.sort_by(|a, b| a.container.cmp(&b.container));
        endpoints
    }

    /// After a start of the daemon: learns the endpoints of the containers in `keep` and removes
    /// what all others left. Safe to run twice.
    pub fn recover(&self, keep: &[ContainerId]) -> Result<Recovered, NetworkError> {
        let keep: HashSet<&str> = keep.iter().map(ContainerId::as_str).collect();
        let mut found = Recovered::default();
        let dir = self.config.exec_root.join(ENDPOINTS);
        for name in entries(&dir)? {
            let file = dir.join(&name);
            if let Some(endpoint) = read_endpoint(&file) {
                let container = endpoint.container.clone();
                self.state().endpoints.insert(container.clone(), endpoint);
                if keep.contains(container.as_str()) {
                    continue;
                }
                self.disconnect(&container)?;
            } else {
                // Its writing was cut short, so nothing else of it exists yet.
                std::fs::remove_file(&file).map_err(NetworkError::io("remove", &file))?;
            }
            found.cleared.push(name);
        }
        let state = self.state();
        let kept: HashSet<PathBuf> =
            state.endpoints.values().map(|endpoint| endpoint.namespace.clone()).collect();
        drop(state);
        let dir = self.config.exec_root.join(sandbox::NAMESPACES);
        for name in entries(&dir)? {
            let path = dir.join(&name);
            if !kept.contains(&path) {
                berth_sys::netns::remove(&path).map_err(NetworkError::io("remove", &path))?;
                found.cleared.push(name);
            }
        }
        Ok(found)
    }

    /// `NetworkSettings` of inspect. `requested` is what the container's record keeps.
    pub fn settings(
        &self,
        container: &ContainerId,
        mode: Mode,
        requested: &EndpointSettings,
    ) -> NetworkSettings {
        let network = self.record(mode);
        let host_key = self.config.exec_root.join(sandbox::NAMESPACES).join("default");
        sandbox::settings(network, self.endpoint(container).as_ref(), requested, &host_key)
    }

    fn record(&self, mode: Mode) -> &Network {
        let name = mode.network();
        self.records.iter().find(|record| record.name == name).expect("made when opened")
    }

    /// With what only the running bridge knows.
    fn complete(&self, record: &Network) -> Network {
        let mut network = record.clone();
        if network.name == Mode::Bridge.network()
            && let Some(bridge) = self.state().bridge
        {
            network.subnet = Some(bridge.subnet);
            network.gateway = Some(bridge.gateway);
        }
        network
    }

    /// No call that can wait happens while this is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bridge(&self) -> Result<Bridge, NetworkError> {
        let known = self.state().bridge;
        known.map_or_else(|| self.make_bridge(), Ok)
    }

    fn make_bridge(&self) -> Result<Bridge, NetworkError> {
        let device = self.config.bridge.device.as_deref().ok_or(NetworkError::BridgeDisabled)?;
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = self.db.read(records::subnet)?;
        let mut warnings = Vec::new();
        let bridge = bridge::ensure(device, &self.config.bridge, recorded, &mut warnings)?;
        if recorded != Some(bridge.subnet) {
            self.db.write(|tx| records::set_subnet(tx, bridge.subnet))?;
        }
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let mut state = self.state();
        state.bridge = Some(bridge);
        state.warnings = warnings;
        Ok(bridge)
    }

    /// Chooses the address and notes the endpoint on disk before anything of it exists.
    fn reserve(&self, plug: &Plug<'_>, bridge: Option<Bridge>) -> Result<Endpoint, NetworkError> {
        let network = self.record(plug.mode);
        let id = HexId::random();
        let mut endpoint = Endpoint {
            container: plug.container.clone(),
            network: network.name.clone(),
            network_id: network.id.clone(),
            interface: String::new(),
            mac: String::new(),
            address: None,
            prefix: 0,
            gateway: None,
            sandbox: HexId::random(),
            namespace: PathBuf::new(),
            id,
        };
        if plug.mode != Mode::Host {
            let dir = self.config.exec_root.join(sandbox::NAMESPACES);
            endpoint.namespace = dir.join(plug.container.short());
        }
        let mut state = self.state();
        if let Some(bridge) = bridge {
            let taken: HashSet<Ipv4Addr> =
                state.endpoints.values().filter_map(|endpoint| endpoint.address).collect();
            let address = lowest_free(&bridge, &taken)
                .ok_or_else(|| NetworkError::NoAddress { id: network.id.to_string() })?;
            endpoint.interface = format!("berth{}", &endpoint.id.as_str()[..10]);
            endpoint.mac = sandbox::mac_text(sandbox::mac(plug.mac, address)?);
            endpoint.address = Some(address);
            endpoint.prefix = bridge.subnet.prefix_len();
            endpoint.gateway = Some(bridge.gateway);
        }
        state.endpoints.insert(plug.container.clone(), endpoint.clone());
        drop(state);
        Ok(endpoint)
    }

    fn set_up(
        &self,
        endpoint: &Endpoint,
        plug: &Plug<'_>,
        bridge: Option<Bridge>,
    ) -> Result<(), NetworkError> {
        let file = self.endpoint_file(&endpoint.container);
        let json = serde_json::to_vec(endpoint).expect("an endpoint is JSON");
        berth_fs::atomic::write_with(&file, &json, 0o600, Durability::Unsynced)
            .map_err(NetworkError::io("write", file))?;
        let mtu = self.config.bridge.mtu;
        let first = sandbox::set_up(endpoint, plug, bridge.map(|bridge| bridge.index), mtu);
        match first {
            // Somebody removed the bridge, or made it anew.
            Err(NetworkError::Kernel { ref source, .. })
                if bridge.is_some() && is_stale(source) =>
            {
                sandbox::tear_down(endpoint)?;
                let again = self.make_bridge()?;
                sandbox::set_up(endpoint, plug, Some(again.index), mtu)
            }
            other => other,
        }
    }

    fn endpoint_file(&self, container: &ContainerId) -> PathBuf {
        self.config.exec_root.join(ENDPOINTS).join(container.as_str())
    }
}

/// Below the exec root: one file for each container that runs.
const ENDPOINTS: &str = "endpoints";

/// No interface has the bridge's number any more.
fn is_stale(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::NODEV, rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

fn lowest_free(bridge: &Bridge, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let free = |host: &Ipv4Addr| *host != bridge.gateway && !taken.contains(host);
    bridge.subnet.hosts().find(free)
}

fn entries(dir: &std::path::Path) -> Result<Vec<String>, NetworkError> {
    let failed = || NetworkError::io("read the directory", dir);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed())? {
        names.push(entry.map_err(failed())?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn read_endpoint(file: &std::path::Path) -> Option<Endpoint> {
    let bytes = std::fs::read(file).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_address_is_given() {
        let subnet: Ipv4Net = "10.9.0.0/29".parse().unwrap();
        let bridge = Bridge { index: 1, subnet, gateway: Ipv4Addr::new(10, 9, 0, 1) };
        let host = |last| Ipv4Addr::new(10, 9, 0, last);
        #[rustfmt::skip]
        let table: &[(&[u8], Option<u8>)] = &[
            (&[],              Some(2)),
            (&[2],             Some(3)),
            (&[3, 4],          Some(2)),
            (&[2, 3, 5],       Some(4)),
            (&[2, 3, 4, 5, 6], None),
        ];
        for (taken, expected) in table {
            let taken = taken.iter().map(|&last| host(last)).collect();
            assert_eq!(lowest_free(&bridge, &taken), expected.map(host), "{taken:?}");
        }
    }
}
