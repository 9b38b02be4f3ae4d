//! The default bridge: the device, its address, forwarding and masquerade.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::netlink::{Change, Netlink};
use crate::{BridgeConfig, NetworkError, filter_rules};

/// The bridge as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    pub(crate) subnet: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
}

/// Makes the device, its address, forwarding and the packet filter rules; what is there already
/// stays. `recorded` is the network that it had before. Warnings are added to `warnings`.
pub(crate) fn ensure(
    device: &str,
    config: &BridgeConfig,
    recorded: Option<Ipv4Net>,
    warnings: &mut Vec<String>,
) -> Result<Bridge, NetworkError> {
    let mut netlink = Netlink::open().map_err(NetworkError::kernel("open a netlink socket"))?;
    let index = ensure_device(&mut netlink, device, config.mtu)?;
    let (gateway, subnet) = ensure_address(&mut netlink, device, index, config, recorded)?;
    netlink
        .change(vec![Change::up(index)])
        .map_err(NetworkError::kernel(format!("set {device} up")))?;
    if config.forward
        && let Err(error) = enable_forwarding()
    {
        warnings.push(format!("WARNING: IPv4 forwarding is disabled ({error})"));
    }
    if config.filter {
        warnings.extend(filter_rules::apply(device, subnet, config));
    }
    Ok(Bridge { index, subnet, gateway })
}

fn ensure_device(netlink: &mut Netlink, device: &str, mtu: u32) -> Result<u32, NetworkError> {
    let failed = || NetworkError::kernel(format!("create the bridge {device}"));
    if netlink.link(device).map_err(failed())?.is_none() {
        let made = netlink.change(vec![Change::add_bridge(device, random_mac(), mtu)]);
        match made {
            Err(error) if crate::netlink::is_there_already(&error) => {}
            other => other.map_err(failed())?,
        }
        disable_ipv6(device);
    }
    match netlink.link(device).map_err(failed())? {
        Some(link) if link.is_bridge => Ok(link.index),
        Some(_) => Err(NetworkError::NotABridge { device: device.to_owned() }),
        None => Err(failed()(io::ErrorKind::NotFound.into())),
    }
}

/// A fixed hardware address of its own: a bridge without one changes it with its ports.
fn random_mac() -> [u8; 6] {
    let mut tail = [0; 4];
    getrandom::fill(&mut tail).expect("the kernel's random source answers");
    [0x02, 0x42, tail[0], tail[1], tail[2], tail[3]]
}

/// Nothing here speaks IPv6; without the setting the kernel gives the bridge an address.
fn disable_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if let Err(error) = write_setting(&path, "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(device, %error, "cannot disable IPv6");
    }
}

/// Writes one of the kernel's settings, which are no files that could be replaced.
pub(crate) fn write_setting(path: &str, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn enable_forwarding() -> io::Result<()> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(PATH)?.trim() == "1" { Ok(()) } else { write_setting(PATH, "1") }
}

/// The bridge's own address and network: `--bip`, what it has already, or a network that no route
/// uses, the recorded one first.
fn ensure_address(
    netlink: &mut Netlink,
    device: &str,
    index: u32,
    config: &BridgeConfig,
    recorded: Option<Ipv4Net>,
) -> Result<(Ipv4Addr, Ipv4Net), NetworkError> {
    let failed = |action: &str| NetworkError::kernel(format!("{action} {device}"));
    let present = netlink.addresses(index).map_err(failed("read the addresses of"))?;
    let chosen = match (config.bip, present.first()) {
        (Some(bip), _) => bip,
        (None, Some(&(address, prefix))) => (address, net(address, prefix)),
        (None, None) => {
            let used = netlink.routes(Some(index)).map_err(failed("read the routes beside"))?;
            let subnet = choose(recorded, &used).ok_or(NetworkError::NoPool)?;
            (first_host(subnet), subnet)
        }
    };
    let (address, subnet) = chosen;
    if !present.iter().any(|(there, _)| *there == address) {
        let change = Change::add_address(index, address, subnet.prefix_len());
        match netlink.change(vec![change]) {
            Err(error) if crate::netlink::is_there_already(&error) => {}
            other => other.map_err(failed("give an address to"))?,
        }
    }
    Ok((address, subnet))
}

fn net(address: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address, prefix).expect("the kernel's prefixes are at most 32").trunc()
}

pub(crate) fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// Docker's default pools, in its order: `172.17.0.0/16` to `172.31.0.0/16`, then
/// `192.168.0.0/20` and on.
fn pools() -> impl Iterator<Item = Ipv4Net> {
    let big = (17..32).map(|second| net(Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|part| net(Ipv4Addr::new(192, 168, part * 16, 0), 20));
    big.chain(small)
}

fn choose(recorded: Option<Ipv4Net>, used: &[Ipv4Net]) -> Option<Ipv4Net> {
    let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(&b.network()) || b.contains(&a.network());
    recorded.into_iter().chain(pools()).find(|pool| !used.iter().any(|one| overlaps(pool, one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pool_that_no_route_uses_is_taken() {
        let subnet = |text: &str| text.parse::<Ipv4Net>().unwrap();
        #[rustfmt::skip]
        let table: &[(Option<&str>, &[&str], &str)] = &[
            (None,                   &[],                                  "172.17.0.0/16"),
            (None,                   &["192.0.2.0/24", "10.0.0.0/8"],      "172.17.0.0/16"),
            (None,                   &["172.17.0.0/16"],                   "172.18.0.0/16"),
            (None,                   &["172.17.42.0/24", "172.18.0.0/15"], "172.20.0.0/16"),
            (None,                   &["172.16.0.0/12"],                   "192.168.0.0/20"),
            (None,                   &["172.16.0.0/12", "192.168.0.0/24"], "192.168.16.0/20"),
            (Some("172.20.0.0/16"),  &["172.17.0.0/16"],                   "172.20.0.0/16"),
            (Some("172.20.0.0/16"),  &["172.20.1.0/24"],                   "172.17.0.0/16"),
        ];
        for (recorded, used, expected) in table {
            let used: Vec<Ipv4Net> = used.iter().map(|text| subnet(text)).collect();
            assert_eq!(choose(recorded.map(subnet), &used), Some(subnet(expected)), "{used:?}");
        }
        let all = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        assert_eq!(choose(None, &all), None);
    }
}
