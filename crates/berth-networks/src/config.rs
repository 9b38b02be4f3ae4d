//! What the daemon's configuration says about networks.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The daemon's settings for networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworksConfig {
    /// `<exec-root>`: namespaces and endpoint files are kept below it.
    pub exec_root: PathBuf,
    /// The default bridge.
    pub bridge: BridgeConfig,
    /// DNS settings for containers that give none.
    pub dns: DnsConfig,
}

/// The settings of the default bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The device, `berth0` by default; `None` for `--bridge none`.
    pub device: Option<String>,
    /// `--bip`: the address of the bridge and its network.
    pub bip: Option<(Ipv4Addr, Ipv4Net)>,
    /// `--mtu`; 0 leaves the kernel's.
    pub mtu: u32,
    /// `--icc`: containers may talk to each other.
    pub icc: bool,
    /// `--ip-masq`.
    pub masquerade: bool,
    /// `--ip-forward`.
    pub forward: bool,
    /// `--iptables`: touch the packet filter at all.
    pub filter: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            device: Some(Self::DEFAULT_DEVICE.to_owned()),
            bip: None,
            mtu: 0,
            icc: true,
            masquerade: true,
            forward: true,
            filter: true,
        }
    }
}

impl BridgeConfig {
    /// The name of the bridge when nothing else is said.
    pub const DEFAULT_DEVICE: &str = "berth0";
}

/// `--dns`, `--dns-search`, `--dns-option` of the daemon or of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains; a single `.` means none.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}
