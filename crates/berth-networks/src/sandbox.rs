//! A container's network namespace: what is made in it, and what inspect says about it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use berth_api::container::{EndpointSettings, NetworkSettings};
use berth_api::json::{Dict, List};
use berth_sys::netns;

use crate::netlink::{Change, Netlink, VethPair, is_no_device, is_there_already};
use crate::store::{Endpoint, Network, Plug};
use crate::{NetworkError, bridge};

/// Below the exec root: the namespaces.
pub(crate) const NAMESPACES: &str = "netns";

/// The container's interface.
const INSIDE: &str = "eth0";

/// Makes the namespace of `endpoint`, or takes the one that `plug` brings, and everything in it. `bridge` is the number of the bridge.
pub(crate) fn set_up(
    endpoint: &Endpoint,
    plug: &Plug<'_>,
    bridge: Option<u32>,
    mtu: u32,
) -> Result<(), NetworkError> {
    let path = &endpoint.namespace;
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let create = || match plug.namespace {
        Some(from) => netns::bind(from, path),
        None => netns::create(path),
    };
    match create() {
        // Left by a daemon that was killed here; nobody can be in it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            netns::remove(path).and_then(|()| create())
        }
        other => other,
    }
    .map_err(NetworkError::kernel("create a network namespace"))?;
    if let Some(bridge) = bridge {
        plug_in(endpoint, bridge, mtu)?;
    }
    netns::within(path, || configure(endpoint, plug.keep_ipv6))
        .map_err(NetworkError::kernel("set up the network namespace"))
}

fn plug_in(endpoint: &Endpoint, bridge: u32, mtu: u32) -> Result<(), NetworkError> {
    let failed = || NetworkError::kernel("create a veth pair");
    let namespace = std::fs::File::open(&endpoint.namespace)
        .map_err(NetworkError::io("open", &endpoint.namespace))?;
    let mac =
        parse_mac(&endpoint.mac).ok_or_else(|| failed()(io::ErrorKind::InvalidData.into()))?;
    let pair = VethPair {
        host: &endpoint.interface,
        bridge,
        inside: INSIDE,
        mac,
        mtu,
        namespace: namespace.as_raw_fd(),
    };
    let mut netlink = Netlink::open().map_err(failed())?;
    netlink.change(vec![Change::add_veth(&pair)]).map_err(failed())
}

/// Runs inside the namespace.
fn configure(endpoint: &Endpoint, keep_ipv6: bool) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let mut changes = vec![Change::up(LOOPBACK)];
    if let (Some(address), Some(gateway)) = (endpoint.address, endpoint.gateway) {
        let link = netlink.link(INSIDE)?.ok_or(io::ErrorKind::NotFound)?;
        if !keep_ipv6 {
            disable_ipv6()?;
        }
        changes.push(Change::add_address(link.index, address, endpoint.prefix));
        changes.push(Change::up(link.index));
        changes.push(Change::add_default_route(gateway));
    }
    match netlink.change(changes) {
        Err(error) if is_there_already(&error) => Ok(()),
        other => other,
    }
}

/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;

/// As Docker does where the network has no IPv6. `/proc/sys/net` shows the namespace of the thread
/// that opens it.
fn disable_ipv6() -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6");
    match bridge::write_setting(&path, "1") {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Removes the veth pair and the namespace; idempotent.
pub(crate) fn tear_down(endpoint: &Endpoint) -> Result<(), NetworkError> {
    delete_pair(&endpoint.interface)
        .map_err(NetworkError::kernel(format!("remove {}", endpoint.interface)))?;
    remove_namespace(endpoint)
}

/// As [`tear_down`], but the veth pair goes a moment later: the kernel takes tens of milliseconds
/// for it. Should the daemon end before, the pair goes with the namespace.
pub(crate) fn let_go(endpoint: &Endpoint) -> Result<(), NetworkError> {
    remove_namespace(endpoint)?;
    if endpoint.interface.is_empty() {
        return Ok(());
    }
    let interface = endpoint.interface.clone();
    let delete = move || {
        if let Err(error) = delete_pair(&interface) {
            tracing::warn!(interface, %error, "a veth pair stays");
        }
    };
    std::thread::Builder::new()
        .name("veth-delete".to_owned())
        .spawn(delete)
        .map(drop)
        .map_err(NetworkError::kernel("start a thread"))
}

fn delete_pair(interface: &str) -> io::Result<()> {
    if interface.is_empty() {
        return Ok(());
    }
    match Netlink::open()?.change(vec![Change::delete_link(interface)]) {
        Err(error) if is_no_device(&error) => Ok(()),
        other => other,
    }
}

fn remove_namespace(endpoint: &Endpoint) -> Result<(), NetworkError> {
    if endpoint.namespace.as_os_str().is_empty() {
        return Ok(());
    }
    netns::remove(&endpoint.namespace).map_err(NetworkError::io("remove", &endpoint.namespace))
}

/// `--mac-address`, or `02:42` and the address.
pub(crate) fn mac(given: &str, address: Ipv4Addr) -> Result<[u8; 6], NetworkError> {
    if given.is_empty() {
        let [a, b, c, d] = address.octets();
        return Ok([0x02, 0x42, a, b, c, d]);
    }
    parse_mac(given)
        .ok_or_else(|| NetworkError::Invalid { what: format!("invalid MAC address: {given}") })
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// `NetworkSettings` of inspect.
pub(crate) fn settings(
    network: &Network,
    endpoint: Option<&Endpoint>,
    requested: &EndpointSettings,
    host_key: &Path,
) -> NetworkSettings {
    let mut own = requested.clone();
    own.network_id = network.id.to_string();
    let mut settings = NetworkSettings { ports: Dict::empty(), ..NetworkSettings::default() };
    if let Some(endpoint) = endpoint {
        let text = |address: Option<Ipv4Addr>| address.map_or_else(String::new, |a| a.to_string());
        own.endpoint_id = endpoint.id.to_string();
        own.gateway = text(endpoint.gateway);
        own.ip_address = text(endpoint.address);
        own.ip_prefix_len = i64::from(endpoint.prefix);
        own.mac_address.clone_from(&endpoint.mac);
        settings.sandbox_id = endpoint.sandbox.to_string();
        let host = endpoint.namespace.as_os_str().is_empty();
        let key = if host { host_key } else { &endpoint.namespace };
        settings.sandbox_key = key.to_string_lossy().into_owned();
        if network.driver == "bridge" {
            settings.endpoint_id.clone_from(&own.endpoint_id);
            settings.gateway.clone_from(&own.gateway);
            settings.ip_address.clone_from(&own.ip_address);
            settings.ip_prefix_len = own.ip_prefix_len;
            settings.mac_address.clone_from(&own.mac_address);
        }
    }
    settings.secondary_ip_addresses = List::null();
    settings.networks = [(network.name.clone(), own)].into_iter().collect();
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        let address = Ipv4Addr::new(172, 17, 0, 2);
        let bad = |text: &str| Err(format!("invalid MAC address: {text}"));
        #[rustfmt::skip]
        let table = [
            ("",                     Ok("02:42:ac:11:00:02".to_owned())),
            ("92:d0:c6:0a:29:33",    Ok("92:d0:c6:0a:29:33".to_owned())),
            ("92-D0-C6-0A-29-33",    Ok("92:d0:c6:0a:29:33".to_owned())),
            ("92:d0:c6:0a:29",       bad("92:d0:c6:0a:29")),
            ("92:d0:c6:0a:29:33:01", bad("92:d0:c6:0a:29:33:01")),
            ("9:d0:c6:0a:29:33",     bad("9:d0:c6:0a:29:33")),
            ("zz:d0:c6:0a:29:33",    bad("zz:d0:c6:0a:29:33")),
        ];
        for (given, expected) in table {
            let got = mac(given, address).map(mac_text).map_err(|error| error.to_string());
            assert_eq!(got, expected, "{given:?}");
        }
    }
}
