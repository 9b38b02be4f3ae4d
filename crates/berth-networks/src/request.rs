//! What a container's request says about its network.

use berth_api::container::{EndpointSettings, HostConfig, NetworkingConfig};
use serde::{Deserialize, Serialize};

use crate::{NetworkError, sandbox};

/// `HostConfig.NetworkMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The default bridge (`bridge`, `default` or empty).
    Bridge,
    /// The host's own network.
    Host,
    /// A namespace with nothing but `lo`.
    None,
}

impl Mode {
    /// The name of the network.
    pub fn network(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::None => "none",
        }
    }

    fn parse(text: &str) -> Result<Self, NetworkError> {
        match text {
            "" | "default" | "bridge" => Ok(Self::Bridge),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            other if other.starts_with("container:") => {
                Err(unsupported("joining the network of another container"))
            }
            other => Err(NetworkError::NotFound { name: other.to_owned() }),
        }
    }
}

/// What the container's record keeps of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The network.
    pub mode: Mode,
    /// `--mac-address`; empty when not given.
    #[serde(default)]
    pub mac: String,
}

/// Reads the network part of a create request, and refuses by name what berth does not have yet.
/// `mac` is `Config.MacAddress` of older clients.
pub fn check(
    host: &HostConfig,
    networking: Option<&NetworkingConfig>,
    mac: &str,
) -> Result<Requested, NetworkError> {
    let mode = Mode::parse(&host.network_mode)?;
    if host.port_bindings.values().any(|bindings| !bindings.is_empty()) || host.publish_all_ports {
        return Err(unsupported("publishing ports"));
    }
    if !host.links.is_empty() {
        return Err(unsupported("linking containers"));
    }
    let mut requested = Requested { mode, mac: mac.to_owned() };
    if let Some(networking) = networking {
        for (name, settings) in &*networking.endpoints_config {
            check_network(name, mode)?;
            if let Some(settings) = settings {
                check_endpoint(settings)?;
                if !settings.mac_address.is_empty() {
                    requested.mac.clone_from(&settings.mac_address);
                }
            }
        }
    }
    if !requested.mac.is_empty() && sandbox::parse_mac(&requested.mac).is_none() {
        let what = format!("invalid MAC address: {}", requested.mac);
        return Err(NetworkError::Invalid { what });
    }
    if !requested.mac.is_empty() && mode == Mode::Host {
        let what = "conflicting options: mac-address and the network mode".to_owned();
        return Err(NetworkError::Invalid { what });
    }
    Ok(requested)
}

fn unsupported(feature: &str) -> NetworkError {
    NetworkError::Unsupported { feature: feature.to_owned() }
}

/// The request may name the network of its mode once more, and no other.
fn check_network(name: &str, mode: Mode) -> Result<(), NetworkError> {
    match Mode::parse(name) {
        Ok(named) if named == mode => Ok(()),
        Ok(_) => Err(unsupported("connecting a container to several networks")),
        Err(error) => Err(error),
    }
}

fn check_endpoint(settings: &EndpointSettings) -> Result<(), NetworkError> {
    if let Some(ipam) = &settings.ipam_config
        && !(ipam.ipv4_address.is_empty()
            && ipam.ipv6_address.is_empty()
            && ipam.link_local_ips.is_empty())
    {
        return invalid("user specified IP address is supported on user defined networks only");
    }
    if !settings.aliases.is_empty() {
        return invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        );
    }
    if !settings.links.is_empty() {
        return Err(unsupported("linking containers"));
    }
    if !settings.driver_opts.is_empty() {
        return Err(unsupported("driver options of an endpoint"));
    }
    Ok(())
}

fn invalid(what: &str) -> Result<(), NetworkError> {
    Err(NetworkError::Invalid { what: what.to_owned() })
}

#[cfg(test)]
mod tests {
    use berth_api::container::{EndpointIpamConfig, PortBinding};

    use super::*;

    fn on(mode: &str) -> HostConfig {
        HostConfig { network_mode: mode.to_owned(), ..HostConfig::default() }
    }

    fn with(name: &str, settings: EndpointSettings) -> NetworkingConfig {
        let endpoints_config = [(name.to_owned(), Some(settings))].into_iter().collect();
        NetworkingConfig { endpoints_config }
    }

    #[test]
    fn network_modes() {
        let requested = |mode| Ok(Requested { mode, mac: String::new() });
        let missing = |what: &str| Err(what.to_owned());
        #[rustfmt::skip]
        let table = [
            ("",            requested(Mode::Bridge)),
            ("default",     requested(Mode::Bridge)),
            ("bridge",      requested(Mode::Bridge)),
            ("host",        requested(Mode::Host)),
            ("none",        requested(Mode::None)),
            ("mine",        missing("network mine not found")),
            ("container:x", missing("joining the network of another container is not supported by this version of berth")),
        ];
        for (mode, expected) in table {
            assert_eq!(check(&on(mode), None, "").map_err(|e| e.to_string()), expected, "{mode}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let check = |host: &HostConfig, networking: Option<&NetworkingConfig>| {
            super::check(host, networking, "").unwrap_err().to_string()
        };
        let port = [("80/tcp".to_owned(), vec![PortBinding::default()].into())];
        let mut host = on("bridge");
        host.port_bindings = port.into_iter().collect();
        assert_eq!(
            check(&host, None),
            "publishing ports is not supported by this version of berth"
        );
        let mut host = on("bridge");
        host.links = vec!["a:b".to_owned()].into();
        assert_eq!(
            check(&host, None),
            "linking containers is not supported by this version of berth"
        );
        let ip = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: "172.17.0.9".to_owned(),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        assert_eq!(
            check(&on("bridge"), Some(&with("bridge", ip))),
            "user specified IP address is supported on user defined networks only"
        );
        let alias = EndpointSettings {
            aliases: vec!["a".to_owned()].into(),
            ..EndpointSettings::default()
        };
        assert_eq!(
            check(&on("bridge"), Some(&with("default", alias))),
            "network-scoped alias is supported only for containers in user defined networks"
        );
        assert_eq!(
            check(&on("bridge"), Some(&with("none", EndpointSettings::default()))),
            "connecting a container to several networks is not supported by this version of berth"
        );
        assert_eq!(
            super::check(&on("bridge"), None, "x").unwrap_err().to_string(),
            "invalid MAC address: x"
        );
    }
}
