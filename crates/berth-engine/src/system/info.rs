//! What `docker info` shows.

use std::collections::BTreeMap;

use berth_api::ApiVersion;
use berth_api::daemon::{Commit, IndexInfo, Info, Plugins, RegistryConfig, RuntimeInfo, SwarmInfo};
use berth_api::json::List;
use berth_types::kind;

use super::version::{VERSION, kernel};
use crate::blocking::blocking;
use crate::containers::{Status, record};
use crate::engine::Engine;
use crate::error::EngineError;

/// The name of the one runtime. Clients ask for it by the name that Docker gives its own.
const RUNTIME: &str = "runc";

impl Engine {
    /// Everything about the engine. Counts come from memory and records.
    pub async fn info(&self, version: ApiVersion) -> Result<Info, EngineError> {
        let engine = self.clone();
        blocking(move || engine.info_now(version)).await
    }

    fn info_now(&self, version: ApiVersion) -> Result<Info, EngineError> {
        let counts = self.counts();
        let cgroups = &self.host().cgroups;
        let driver = self.layers().driver();
        let now = self.reloadable();
        let is_old = !version.at_least(50);
        let status = driver.status();
        Ok(Info {
            id: self.id().to_owned(),
            containers: counts.all,
            containers_running: counts.running,
            containers_paused: counts.paused,
            containers_stopped: counts.stopped(),
            images: i64::try_from(self.images().count()?).unwrap_or(i64::MAX),
            driver: driver.name().to_owned(),
            driver_status: if status.is_empty() { List::null() } else { List::from(status) },
            plugins: plugins(),
            memory_limit: cgroups.memory_limit,
            swap_limit: cgroups.swap_limit,
            cpu_cfs_period: cgroups.cpu_cfs,
            cpu_cfs_quota: cgroups.cpu_cfs,
            cpu_shares: cgroups.cpu_shares,
            cpu_set: cgroups.cpuset,
            pids_limit: cgroups.pids_limit,
            ipv4_forwarding: ipv4_forwarding(),
            bridge_nf_iptables: is_old.then_some(false),
            bridge_nf_ip6tables: is_old.then_some(false),
            debug: now.debug,
            n_fd: count_fds(),
            oom_kill_disable: cgroups.oom_kill_disable,
            system_time: berth_types::Timestamp::now().to_string(),
            logging_driver: self.config().log_driver.clone(),
            cgroup_driver: cgroups.driver().to_owned(),
            cgroup_version: cgroups.version().to_owned(),
            n_events_listener: i64::try_from(self.events().listeners()).unwrap_or(i64::MAX),
            kernel_version: kernel(),
            operating_system: os_release("PRETTY_NAME"),
            os_version: os_release("VERSION_ID"),
            os_type: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            index_server_address: "https://index.docker.io/v1/".to_owned(),
            registry_config: registry_config(&self.reloadable().registry.options, version),
            ncpu: i64::from(self.host().cpus),
            mem_total: i64::try_from(berth_sys::system::total_memory()).unwrap_or(i64::MAX),
            docker_root_dir: self.config().data_root.to_string_lossy().into_owned(),
            http_proxy: proxy("HTTP_PROXY"),
            https_proxy: proxy("HTTPS_PROXY"),
            no_proxy: proxy("NO_PROXY"),
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            labels: now.labels,
            experimental_build: self.config().experimental,
            server_version: VERSION.to_owned(),
            runtimes: runtimes(&self.config().shim, version),
            default_runtime: RUNTIME.to_owned(),
            swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
            live_restore_enabled: now.live_restore,
            init_binary: self.init_name(),
            containerd_commit: commit(version),
            runc_commit: commit(version),
            init_commit: commit(version),
            security_options: self.security_options(version),
            cdi_spec_dirs: Vec::new(),
            warnings: self.warnings()?,
            ..Info::default()
        })
    }

    /// How many containers there are, by what they do.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for container in self.registry().all() {
            counts.all += 1;
            match container.state().status {
                Status::Running => counts.running += 1,
                Status::Paused => counts.paused += 1,
                _ => {}
            }
        }
        counts
    }

    fn init_name(&self) -> String {
        match self.config().init_path.as_str() {
            "" => "docker-init".to_owned(),
            path => path.to_owned(),
        }
    }

    fn security_options(&self, version: ApiVersion) -> Vec<String> {
        let host = self.host();
        let mut options = Vec::new();
        if host.apparmor {
            options.push("name=apparmor");
        }
        if host.seccomp {
            options.push("name=seccomp,profile=builtin");
        }
        if !self.ids().is_identity() {
            options.push("name=userns");
        }
        if host.cgroup_namespaces {
            options.push("name=cgroupns");
        }
        let name_only = |option: &str| {
            option
                .strip_prefix("name=")
                .unwrap_or(option)
                .split(',')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        options
            .into_iter()
            .map(|option| if version.at_least(25) { option.to_owned() } else { name_only(option) })
            .collect()
    }

    fn warnings(&self) -> Result<List<String>, EngineError> {
        let mut warnings = self.host().cgroups.warnings();
        warnings.extend(berth_storage::select::warnings(self.layers().driver()));
        if !ipv4_forwarding() {
            warnings.push("WARNING: IPv4 forwarding is disabled".to_owned());
        }
        warnings.extend(self.networks().warnings());
        warnings.extend_from_slice(self.self_test_warnings());
        warnings.extend(self.upkeep().warning());
        warnings.extend(self.pool_warning());
        for address in &self.config().plain_tcp {
            warnings.push(insecure_api(address));
        }
        warnings.extend(self.hidden()?);
        Ok(if warnings.is_empty() { List::null() } else { List::from(warnings) })
    }

    /// What another storage driver has and this one does not show.
    fn hidden(&self) -> Result<Option<String>, EngineError> {
        let driver = self.layers().driver().name();
        let images = self.images().count_elsewhere()?;
        let containers = self.db().read(|conn| record::count_elsewhere(conn, driver))?;
        if images == 0 && containers == 0 {
            return Ok(None);
        }
        let others = self.layers().other_drivers()?.join(", ");
        Ok(Some(format!(
            "WARNING: {images} images and {containers} containers of other storage drivers \
             ({others}) are hidden; they are back when the daemon is started with theirs"
        )))
    }
}

/// How many containers there are, by what they do.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) all: i64,
    pub(crate) running: i64,
    pub(crate) paused: i64,
}

impl Counts {
    /// Those that neither run nor are paused.
    pub(crate) fn stopped(&self) -> i64 {
        self.all - self.running - self.paused
    }
}

fn plugins() -> Plugins {
    let list =
        |names: &[&str]| List::from(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    Plugins {
        volume: list(&["local"]),
        network: list(&["bridge", "host", "null"]),
        authorization: List::null(),
        log: list(&["json-file"]),
    }
}

fn runtimes(shim: &std::path::Path, version: ApiVersion) -> BTreeMap<String, RuntimeInfo> {
    let path = shim.to_string_lossy().into_owned();
    let status = if version.at_least(44) {
        [("org.opencontainers.runtime-spec.features".to_owned(), "{}".to_owned())].into()
    } else {
        BTreeMap::new()
    };
    [(RUNTIME.to_owned(), RuntimeInfo { path, runtime_args: Vec::new(), status })].into()
}

fn commit(version: ApiVersion) -> Commit {
    let id = "built-in".to_owned();
    let expected = if version.at_least(49) { String::new() } else { id.clone() };
    Commit { id, expected }
}

fn registry_config(
    options: &berth_registry::RegistryOptions,
    version: ApiVersion,
) -> RegistryConfig {
    let is_old = !version.at_least(48);
    let hub = IndexInfo {
        name: "docker.io".to_owned(),
        mirrors: options.mirrors.clone(),
        secure: true,
        official: true,
    };
    let insecure = options.insecure_names().map(|name| {
        let name = name.to_owned();
        let index =
            IndexInfo { name: name.clone(), mirrors: Vec::new(), secure: false, official: false };
        (name, index)
    });
    let networks = options.insecure_networks();
    RegistryConfig {
        allow_nondistributable_artifacts_cidrs: is_old.then(List::null),
        allow_nondistributable_artifacts_hostnames: is_old.then(List::null),
        insecure_registry_cidrs: networks.iter().map(ToString::to_string).collect(),
        index_configs: insecure.chain([("docker.io".to_owned(), hub)]).collect(),
        mirrors: options.mirrors.clone(),
    }
}

fn insecure_api(address: &str) -> String {
    format!(
        "[DEPRECATION NOTICE]: API is accessible on http://{address} without encryption.\n         \
         Access to the remote API is equivalent to root access on the host. Refer\n         \
         to the 'Docker daemon attack surface' section in the documentation for\n         \
         more information: https://docs.docker.com/go/attack-surface/\n\
         In future versions this will be a hard failure preventing the daemon from starting! \
         Learn more at: https://docs.docker.com/go/api-security/"
    )
}

fn ipv4_forwarding() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() != "0")
}

fn count_fds() -> i64 {
    std::fs::read_dir("/proc/self/fd")
        .map_or(-1, |entries| i64::try_from(entries.count()).unwrap_or(i64::MAX))
}

/// A value of `/etc/os-release`, its quotes taken off.
pub(crate) fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_else(|error| {
            tracing::debug!(error = %kind::chain(&error), "no os-release");
            String::new()
        });
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_default()
}

/// A proxy of the daemon's environment, upper case first; who is asked for is not shown.
fn proxy(name: &str) -> String {
    let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
    let value = value.unwrap_or_default();
    let Some((scheme, rest)) = value.split_once("://") else { return value };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => value,
    }
}
