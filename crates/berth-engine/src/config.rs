//! What an engine is told at its start, as plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_layers::Settings as LayerSettings;
use berth_storage::Mapping;
use berth_types::IdMaps;

use crate::registry::RegistryConfig;

/// What an engine is told at its start. Values are checked by whoever fills it in.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where everything that must last is kept.
    pub data_root: PathBuf,
    /// Run-time state: bundles, sockets, network namespaces.
    pub exec_root: PathBuf,
    /// What ids of containers are on the host, in a data root for these maps alone.
    pub ids: IdMaps,
    /// The most layers that a new image may have.
    pub max_image_layers: u32,
    /// The watcher's program.
    pub shim: PathBuf,
    /// The storage driver asked for; empty for automatic choice.
    pub storage_driver: String,
    /// `KEY=VALUE` options of the storage driver.
    pub storage_opts: Vec<String>,
    /// The default bridge's device, or `none`.
    pub bridge: String,
    /// Address and prefix of the default bridge, `172.17.0.1/16`.
    pub bip: Option<String>,
    /// Bridge MTU; `None` for the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// Whether to masquerade what leaves the bridge.
    pub ip_masq: bool,
    /// Whether firewall rules may be written at all.
    pub iptables: bool,
    /// Whether `net.ipv4.ip_forward` may be switched on.
    pub ip_forward: bool,
    /// Name servers for containers, instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains for containers, instead of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options for containers, instead of the host's.
    pub dns_opts: Vec<String>,
    /// The daemon's labels, `KEY=VALUE`.
    pub labels: Vec<String>,
    /// Containers stay when the engine stops.
    pub live_restore: bool,
    /// How long a stop of the engine waits for containers; `None` for ever.
    pub shutdown_timeout: Option<Duration>,
    /// Shown in `info`.
    pub experimental: bool,
    /// Shown in `info`.
    pub debug: bool,
    /// The default log driver.
    pub log_driver: String,
    /// The default log driver's options.
    pub log_opts: BTreeMap<String, String>,
    /// Size of `/dev/shm` where a container does not say, in bytes.
    pub shm_size: u64,
    /// `shareable` or `private`.
    pub ipc_mode: String,
    /// `host` or `private`; empty for the default of the host's cgroup version.
    pub cgroupns_mode: String,
    /// Default ulimits: name → (soft, hard).
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// Run an init in each container.
    pub init: bool,
    /// Path of that init; empty to look for one.
    pub init_path: String,
    /// Parent cgroup of containers; empty for berth's own.
    pub cgroup_parent: String,
    /// Set `no-new-privileges` in each container.
    pub no_new_privileges: bool,
    /// Label containers, where the host's SELinux is on.
    pub selinux_enabled: bool,
    /// Addresses of TCP listeners without TLS, for the warning in `info`.
    pub plain_tcp: Vec<String>,
    /// Registries.
    pub registry: RegistryConfig,
}

impl EngineConfig {
    /// The defaults, on the given directories.
    pub fn new(data_root: PathBuf, exec_root: PathBuf, shim: PathBuf) -> Self {
        Self {
            data_root,
            exec_root,
            ids: IdMaps::default(),
            max_image_layers: LayerSettings::default().max_depth,
            shim,
            storage_driver: String::new(),
            storage_opts: Vec::new(),
            bridge: "berth0".to_owned(),
            bip: None,
            mtu: None,
            ip_masq: true,
            iptables: true,
            ip_forward: true,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opts: Vec::new(),
            labels: Vec::new(),
            live_restore: true,
            shutdown_timeout: Some(Duration::from_secs(15)),
            experimental: false,
            debug: false,
            log_driver: "json-file".to_owned(),
            log_opts: BTreeMap::new(),
            shm_size: 64 << 20,
            ipc_mode: "private".to_owned(),
            cgroupns_mode: String::new(),
            ulimits: BTreeMap::new(),
            init: false,
            init_path: String::new(),
            cgroup_parent: String::new(),
            no_new_privileges: false,
            selinux_enabled: false,
            plain_tcp: Vec::new(),
            registry: RegistryConfig::default(),
        }
    }
}

impl EngineConfig {
    /// What a layer store is told.
    pub(crate) fn layers(&self) -> LayerSettings {
        LayerSettings { ids: self.ids.clone(), max_depth: self.max_image_layers }
    }

    /// How a driver may translate ids of containers.
    pub(crate) fn mapping(&self) -> Mapping<'_> {
        Mapping { ids: &self.ids, dir: &self.exec_root }
    }
}

/// The part of the configuration that may change while the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloadable {
    /// See [`EngineConfig::labels`].
    pub labels: Vec<String>,
    /// See [`EngineConfig::live_restore`].
    pub live_restore: bool,
    /// See [`EngineConfig::shutdown_timeout`].
    pub shutdown_timeout: Option<Duration>,
    /// See [`EngineConfig::debug`].
    pub debug: bool,
    /// See [`EngineConfig::shm_size`].
    pub shm_size: u64,
    /// See [`EngineConfig::ipc_mode`].
    pub ipc_mode: String,
    /// See [`EngineConfig::cgroupns_mode`].
    pub cgroupns_mode: String,
    /// See [`EngineConfig::registry`].
    pub registry: RegistryConfig,
}

impl From<&EngineConfig> for Reloadable {
    fn from(config: &EngineConfig) -> Self {
        Self {
            labels: config.labels.clone(),
            live_restore: config.live_restore,
            shutdown_timeout: config.shutdown_timeout,
            debug: config.debug,
            shm_size: config.shm_size,
            ipc_mode: config.ipc_mode.clone(),
            cgroupns_mode: config.cgroupns_mode.clone(),
            registry: config.registry.clone(),
        }
    }
}
