//! The daemon's settings: flags by dockerd's names, and `daemon.json`.
//!
//! [`keys::KEYS`] is the one table of everything that can be said, with where it goes or that it is
//! refused. The file is read first; flags fill what it leaves empty; a setting in both is an error.

mod check;
mod file;
mod flags;
mod go_json;
pub(crate) mod keys;
mod registries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_engine::EngineConfig;
use berth_engine::registry::{RegistryConfig, RegistryOptions};

pub(crate) use check::ValueError;
pub(crate) use file::FileError;
pub(crate) use flags::{Flags, help};

/// Where the configuration file is looked for.
pub(crate) const DEFAULT_FILE: &str = "/etc/berth/daemon.json";
/// Where the API is served when no host is given.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/berth.sock";

/// Everything the daemon was told, file and flags together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) file: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) group: String,
    pub(crate) pidfile: String,
    pub(crate) metrics_addr: String,
    pub(crate) data_root: String,
    pub(crate) exec_root: String,
    pub(crate) debug: bool,
    pub(crate) log_level: String,
    pub(crate) log_format: String,
    pub(crate) storage_driver: String,
    pub(crate) storage_opts: Vec<String>,
    pub(crate) bridge: String,
    pub(crate) bip: String,
    pub(crate) mtu: i64,
    pub(crate) ip_masq: bool,
    pub(crate) iptables: bool,
    pub(crate) ip_forward: bool,
    pub(crate) dns: Vec<String>,
    pub(crate) dns_opts: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) live_restore: bool,
    pub(crate) shutdown_timeout: i64,
    pub(crate) downloads: i64,
    pub(crate) uploads: i64,
    pub(crate) download_attempts: i64,
    pub(crate) insecure: Vec<String>,
    pub(crate) mirrors: Vec<String>,
    pub(crate) certs_dir: String,
    pub(crate) experimental: bool,
    pub(crate) max_image_layers: i64,
    pub(crate) log_driver: String,
    pub(crate) log_opts: BTreeMap<String, String>,
    pub(crate) shm_size: i64,
    pub(crate) ipc_mode: String,
    pub(crate) cgroupns_mode: String,
    pub(crate) ulimits: BTreeMap<String, (i64, i64)>,
    pub(crate) init: bool,
    pub(crate) init_path: String,
    pub(crate) cgroup_parent: String,
    pub(crate) no_new_privileges: bool,
    pub(crate) userns_remap: String,
    pub(crate) selinux_enabled: bool,
    pub(crate) tls: bool,
    pub(crate) tls_verify: bool,
    pub(crate) tls_ca_cert: String,
    pub(crate) tls_cert: String,
    pub(crate) tls_key: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: DEFAULT_FILE.to_owned(),
            hosts: Vec::new(),
            group: "docker".to_owned(),
            pidfile: "/run/berth.pid".to_owned(),
            metrics_addr: String::new(),
            data_root: "/var/lib/berth".to_owned(),
            exec_root: "/run/berth".to_owned(),
            debug: false,
            log_level: "info".to_owned(),
            log_format: "text".to_owned(),
            storage_driver: String::new(),
            storage_opts: Vec::new(),
            bridge: String::new(),
            bip: String::new(),
            mtu: 0,
            ip_masq: true,
            iptables: true,
            ip_forward: true,
            dns: Vec::new(),
            dns_opts: Vec::new(),
            dns_search: Vec::new(),
            labels: Vec::new(),
            live_restore: true,
            shutdown_timeout: 15,
            downloads: 3,
            uploads: 5,
            download_attempts: 5,
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certs_dir: "/etc/docker/certs.d".to_owned(),
            experimental: false,
            max_image_layers: 125,
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
            userns_remap: String::new(),
            selinux_enabled: false,
            tls: false,
            tls_verify: false,
            tls_ca_cert: String::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
        }
    }
}

/// Why the daemon does not start with these settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("unable to configure the Docker daemon with file {path}")]
    File { path: String, source: FileError },
    #[error("{name} is not supported by this version of berth")]
    Unsupported { name: &'static str },
    #[error(transparent)]
    Value(ValueError),
    #[error("merged configuration validation from file and command line flags failed")]
    Merged { source: ValueError },
}

impl Config {
    /// File and flags together, checked, and the keys that the file has.
    pub(crate) fn load(flags: &Flags) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let mut config = Self::default();
        for flag in flags.given() {
            if flag.key.is_refused(&flag.values) {
                return Err(ConfigError::Unsupported { name: flag.key.flag });
            }
            if flag.key.flag == "config-file" {
                config.file.clone_from(&flag.values[0]);
            }
        }
        let named = flags.is_given("config-file");
        let path = config.file.clone();
        let keys = file::apply(&mut config, &path, named, flags)
            .map_err(|source| ConfigError::File { path, source })?;
        for flag in flags.given() {
            flag.key.set_from_flag(&mut config, &flag.values).map_err(ConfigError::Value)?;
        }
        config.fill_tls();
        config.check().map_err(|source| {
            if keys.is_some() { ConfigError::Merged { source } } else { ConfigError::Value(source) }
        })?;
        Ok((config, keys.unwrap_or_default()))
    }

    /// What the engine is told.
    ///
    /// `plain_tcp` are the addresses that are served without TLS. Call it on checked settings only.
    pub(crate) fn engine(&self, shim: PathBuf, plain_tcp: Vec<String>) -> EngineConfig {
        let mut engine = EngineConfig::new(
            Path::new(&self.data_root).to_owned(),
            Path::new(&self.exec_root).to_owned(),
            shim,
        );
        engine.storage_driver.clone_from(&self.storage_driver);
        engine.storage_opts.clone_from(&self.storage_opts);
        if !self.bridge.is_empty() {
            engine.bridge.clone_from(&self.bridge);
        }
        engine.bip = Some(self.bip.clone()).filter(|bip| !bip.is_empty());
        engine.mtu = u32::try_from(self.mtu).ok().filter(|mtu| *mtu != 0);
        engine.ip_masq = self.ip_masq;
        engine.iptables = self.iptables;
        engine.ip_forward = self.ip_forward;
        engine.dns = self.dns.iter().filter_map(|server| server.parse().ok()).collect();
        engine.dns_search.clone_from(&self.dns_search);
        engine.dns_opts.clone_from(&self.dns_opts);
        engine.labels.clone_from(&self.labels);
        engine.live_restore = self.live_restore;
        engine.shutdown_timeout = self.shutdown_timeout();
        engine.experimental = self.experimental;
        engine.max_image_layers = u32::try_from(self.max_image_layers).unwrap_or(125);
        engine.debug = self.debug;
        engine.log_driver.clone_from(&self.log_driver);
        engine.log_opts.clone_from(&self.log_opts);
        engine.shm_size = u64::try_from(self.shm_size).unwrap_or(64 << 20);
        engine.ipc_mode.clone_from(&self.ipc_mode);
        engine.cgroupns_mode.clone_from(&self.cgroupns_mode);
        engine.ulimits.clone_from(&self.ulimits);
        engine.init = self.init;
        engine.init_path.clone_from(&self.init_path);
        engine.cgroup_parent.clone_from(&self.cgroup_parent);
        engine.no_new_privileges = self.no_new_privileges;
        engine.selinux_enabled = self.selinux_enabled;
        engine.plain_tcp = plain_tcp;
        engine.registry = self.registry();
        engine
    }

    fn registry(&self) -> RegistryConfig {
        let standard = RegistryConfig::default();
        let or = |number: i64, standard| {
            usize::try_from(number).ok().filter(|n| *n > 0).unwrap_or(standard)
        };
        let attempts = u32::try_from(self.download_attempts).ok().filter(|n| *n > 0);
        let mut limits = standard.limits;
        limits.attempts = attempts.unwrap_or(limits.attempts);
        RegistryConfig {
            options: RegistryOptions {
                mirrors: self.mirrors.clone(),
                insecure: self.insecure.clone(),
                certs_dir: Path::new(&self.certs_dir).to_owned(),
            },
            downloads: or(self.downloads, standard.downloads),
            uploads: or(self.uploads, standard.uploads),
            limits,
        }
    }

    /// How long a stop waits for containers; `None` for ever.
    pub(crate) fn shutdown_timeout(&self) -> Option<Duration> {
        u64::try_from(self.shutdown_timeout).ok().map(Duration::from_secs)
    }

    /// The level that log lines must have.
    pub(crate) fn effective_level(&self) -> &str {
        if self.debug && self.log_level == "info" { "debug" } else { &self.log_level }
    }
}
