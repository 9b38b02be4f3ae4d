//! The table of settings: every documented key of `daemon.json` and every flag, and where it goes.

use std::collections::BTreeMap;

use super::Config;
use super::check::{ValueError, parse_ulimit};
use super::go_json::Json;

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the file; empty where only a flag exists.
    pub(crate) json: &'static str,
    /// Its name on the command line, without dashes; empty where only the file has it.
    pub(crate) flag: &'static str,
    /// The flag's letter.
    pub(crate) short: Option<char>,
    /// Where the value goes.
    pub(crate) slot: Slot,
    /// Whether SIGHUP takes over a new value.
    pub(crate) reload: Reload,
    /// One line of help.
    pub(crate) help: &'static str,
}

/// Whether SIGHUP takes over a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    Yes,
    No,
}

type Field<T> = fn(&mut Config) -> &mut T;

/// Where a value goes, and thereby its type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    Bool(Field<bool>),
    Int(Field<i64>),
    /// Bytes: a number or a text such as `64M`.
    Size(Field<i64>),
    Text(Field<String>),
    List(Field<Vec<String>>),
    Map(Field<BTreeMap<String, String>>),
    Ulimits(Field<BTreeMap<String, (i64, i64)>>),
    /// berth behaves as this value says; any other is refused.
    Fixed(Kind, &'static str),
    /// Documented by Docker, and not there yet.
    Refused(Kind),
}

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Size,
    Text,
    List,
    Map,
}

impl Key {
    /// The type of the value.
    pub(crate) fn kind(&self) -> Kind {
        match self.slot {
            Slot::Bool(_) => Kind::Bool,
            Slot::Int(_) => Kind::Int,
            Slot::Size(_) => Kind::Size,
            Slot::Text(_) => Kind::Text,
            Slot::List(_) => Kind::List,
            Slot::Map(_) | Slot::Ulimits(_) => Kind::Map,
            Slot::Fixed(kind, _) | Slot::Refused(kind) => kind,
        }
    }

    /// Whether berth does not do what these values of the flag ask for.
    pub(crate) fn is_refused(&self, values: &[String]) -> bool {
        match self.slot {
            Slot::Refused(_) => true,
            Slot::Fixed(Kind::Bool, only) => {
                values.iter().any(|value| parse_bool(value) != parse_bool(only))
            }
            Slot::Fixed(_, only) => values.iter().any(|value| value != only),
            _ => false,
        }
    }

    /// Whether berth does not do what this value in the file asks for.
    pub(crate) fn is_refused_in_file(&self, value: &Json) -> bool {
        match self.slot {
            Slot::Refused(_) => true,
            Slot::Fixed(_, only) => value.go_display() != only,
            _ => false,
        }
    }

    /// Takes over what the command line says.
    pub(crate) fn set_from_flag(
        &self,
        config: &mut Config,
        values: &[String],
    ) -> Result<(), ValueError> {
        let Some(last) = values.last() else { return Ok(()) };
        let bad = || ValueError::NotANumber { text: last.clone() };
        match self.slot {
            Slot::Bool(field) => *field(config) = parse_bool(last).ok_or_else(bad)?,
            Slot::Int(field) => *field(config) = last.parse().map_err(|_unread| bad())?,
            Slot::Size(field) => *field(config) = parse_size(last)?,
            Slot::Text(field) => field(config).clone_from(last),
            Slot::List(field) => *field(config) = values.to_vec(),
            Slot::Map(field) => {
                let pairs = values.iter().map(|value| match value.split_once('=') {
                    Some((key, value)) => (key.to_owned(), value.to_owned()),
                    None => (value.clone(), String::new()),
                });
                *field(config) = pairs.collect();
            }
            Slot::Ulimits(field) => {
                let limits: Result<_, _> = values.iter().map(|text| parse_ulimit(text)).collect();
                *field(config) = limits?;
            }
            Slot::Fixed(..) | Slot::Refused(_) => {}
        }
        Ok(())
    }
}

/// Reads a boolean as Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

pub(crate) fn parse_size(text: &str) -> Result<i64, ValueError> {
    berth_types::size::parse_ram(text).map_err(ValueError::Size)
}

const fn key(
    json: &'static str,
    flag: &'static str,
    slot: Slot,
    reload: Reload,
    help: &'static str,
) -> Key {
    Key { json, flag, short: None, slot, reload, help }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a constant function cannot drop, and the table reads better"
)]
const fn short(short: char, key: Key) -> Key {
    Key { short: Some(short), ..key }
}

use Reload::{No, Yes};
use Slot::{Bool, Fixed, Int, List, Map, Refused, Size, Text, Ulimits};

/// Every setting that Docker documents, and berth's own.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    // Where and how the daemon works.
    key("",                        "config-file",             Text(|c| &mut c.file),      No,  "Daemon configuration file"),
    short('H', key("hosts",        "host",                    List(|c| &mut c.hosts),            No,  "Daemon socket(s) to connect to (unix, tcp, fd)")),
    short('G', key("group",        "group",                   Text(|c| &mut c.group),            No,  "Group for the unix socket")),
    short('p', key("pidfile",      "pidfile",                 Text(|c| &mut c.pidfile),          No,  "Path to use for daemon PID file")),
    key("data-root",               "data-root",               Text(|c| &mut c.data_root),        No,  "Root directory of persistent state")       ,
    key("exec-root",               "exec-root",               Text(|c| &mut c.exec_root),        No,  "Root directory for execution state files"),
    short('D', key("debug",        "debug",                   Bool(|c| &mut c.debug),            Yes, "Enable debug mode")),
    short('l', key("log-level",    "log-level",               Text(|c| &mut c.log_level),        Yes, "Set the logging level (debug, info, warn, error, fatal)")),
    key("log-format",              "log-format",              Text(|c| &mut c.log_format),       No,  "Set the logging format (text, json)"),
    key("raw-logs",                "raw-logs",                Fixed(Kind::Bool, "true"),         No,  "Full timestamps without ANSI coloring (always so)"),
    key("labels",                  "label",                   List(|c| &mut c.labels),           Yes, "Set key=value labels to the daemon"),
    key("live-restore",            "live-restore",            Bool(|c| &mut c.live_restore),     Yes, "Keep containers while the daemon is not there"),
    key("shutdown-timeout",        "shutdown-timeout",        Int(|c| &mut c.shutdown_timeout),  Yes, "Seconds that a stop waits for containers; -1 for ever"),
    key("metrics-addr",            "metrics-addr",            Text(|c| &mut c.metrics_addr),     No,  "Address and port to serve the metrics api on, such as 127.0.0.1:9323"),
    key("experimental",            "experimental",            Bool(|c| &mut c.experimental),     No,  "Enable experimental features"),
    key("tls",                     "tls",                     Bool(|c| &mut c.tls),              No,  "Use TLS; implied by --tlsverify"),
    key("tlsverify",               "tlsverify",               Bool(|c| &mut c.tls_verify),       No,  "Use TLS and verify the remote"),
    key("tlscacert",               "tlscacert",               Text(|c| &mut c.tls_ca_cert),      No,  "Trust certs signed only by this CA"),
    key("tlscert",                 "tlscert",                 Text(|c| &mut c.tls_cert),         No,  "Path to TLS certificate file"),
    key("tlskey",                  "tlskey",                  Text(|c| &mut c.tls_key),          No,  "Path to TLS key file"),
    // Storage.
    short('s', key("storage-driver", "storage-driver",        Text(|c| &mut c.storage_driver),   No,  "Storage driver to use")),
    key("storage-opts",            "storage-opt",             List(|c| &mut c.storage_opts),     No,  "Storage driver options"),
    key("max-image-layers",        "max-image-layers",        Int(|c| &mut c.max_image_layers),  No,  "The most layers that a new image may have (125 as in Docker; up to 498)"),
    // Defaults of containers.
    key("log-driver",              "log-driver",              Text(|c| &mut c.log_driver),       No,  "Default driver for container logs (json-file, none)"),
    key("log-opts",                "log-opt",                 Map(|c| &mut c.log_opts),          No,  "Default log driver options for containers"),
    key("default-shm-size",        "default-shm-size",        Size(|c| &mut c.shm_size),         Yes, "Default shm size for containers"),
    key("default-ipc-mode",        "default-ipc-mode",        Text(|c| &mut c.ipc_mode),         Yes, "Default mode for containers ipc (\"shareable\" | \"private\")"),
    key("default-cgroupns-mode",   "default-cgroupns-mode",   Text(|c| &mut c.cgroupns_mode),    Yes, "Default mode for containers cgroup namespace (\"host\" | \"private\")"),
    key("default-ulimits",         "default-ulimit",          Ulimits(|c| &mut c.ulimits),       No,  "Default ulimits for containers"),
    key("init",                    "init",                    Bool(|c| &mut c.init),             No,  "Run an init in the container to forward signals and reap processes"),
    key("init-path",               "init-path",               Text(|c| &mut c.init_path),        No,  "Path to the init binary"),
    key("cgroup-parent",           "cgroup-parent",           Text(|c| &mut c.cgroup_parent),    No,  "Set parent cgroup for all containers"),
    key("no-new-privileges",       "no-new-privileges",       Bool(|c| &mut c.no_new_privileges), No, "Set no-new-privileges by default for new containers"),
    key("userns-remap",            "userns-remap",            Text(|c| &mut c.userns_remap),     No,  "User/Group setting for user namespaces"),
    key("selinux-enabled",         "selinux-enabled",         Bool(|c| &mut c.selinux_enabled),  No,  "Enable selinux support"),
    key("dns",                     "dns",                     List(|c| &mut c.dns),              No,  "DNS servers to use"),
    key("dns-opts",                "dns-opt",                 List(|c| &mut c.dns_opts),         No,  "DNS options to use"),
    key("dns-search",              "dns-search",              List(|c| &mut c.dns_search),       No,  "DNS search domains to use"),
    // The default bridge.
    short('b', key("bridge",       "bridge",                  Text(|c| &mut c.bridge),           No,  "Attach containers to a network bridge (\"none\" for no bridge)")),
    key("bip",                     "bip",                     Text(|c| &mut c.bip),              No,  "Specify network bridge IP"),
    key("mtu",                     "mtu",                     Int(|c| &mut c.mtu),               No,  "Set the containers network MTU"),
    key("ip-masq",                 "ip-masq",                 Bool(|c| &mut c.ip_masq),          No,  "Enable IP masquerading"),
    key("iptables",                "iptables",                Bool(|c| &mut c.iptables),         No,  "Enable addition of firewall rules"),
    key("ip-forward",              "ip-forward",              Bool(|c| &mut c.ip_forward),       No,  "Enable net.ipv4.ip_forward"),
    key("icc",                     "icc",                     Fixed(Kind::Bool, "true"),         No,  "Enable inter-container communication (only true)"),
    key("userland-proxy",          "userland-proxy",          Fixed(Kind::Bool, "false"),        No,  "Use userland proxy for loopback traffic (only false)"),
    key("ipv6",                    "ipv6",                    Fixed(Kind::Bool, "false"),        No,  "Enable IPv6 networking (only false)"),
    key("ip6tables",               "ip6tables",               Fixed(Kind::Bool, "false"),        No,  "Enable addition of ip6tables rules (only false)"),
    // Registries.
    key("max-concurrent-downloads", "max-concurrent-downloads", Int(|c| &mut c.downloads),       Yes, "Set the max concurrent downloads"),
    key("max-concurrent-uploads",  "max-concurrent-uploads",  Int(|c| &mut c.uploads),           Yes, "Set the max concurrent uploads"),
    key("max-download-attempts",   "max-download-attempts",   Int(|c| &mut c.download_attempts), Yes, "Set the max download attempts for each pull"),
    key("insecure-registries",     "insecure-registry",       List(|c| &mut c.insecure),         Yes, "Registries to use without TLS, or without verifying it (host, host:port, network)"),
    key("registry-mirrors",        "registry-mirror",         List(|c| &mut c.mirrors),          Yes, "Mirrors of Docker's registry, in the order of trying"),
    key("",                        "registry-certs",          Text(|c| &mut c.certs_dir),        No,  "Directory of registries' certificates"),
    key("allow-nondistributable-artifacts", "allow-nondistributable-artifacts", Refused(Kind::List), No, ""),
    // Not there yet.
    key("authorization-plugins",   "authorization-plugin",    Refused(Kind::List), Yes, ""),
    key("default-runtime",         "default-runtime",         Fixed(Kind::Text, "runc"), Yes, "Default OCI runtime for containers (only runc)"),
    key("runtimes",                "add-runtime",             Refused(Kind::Map),  Yes, ""),
    key("features",                "feature",                 Refused(Kind::Map),  Yes, ""),
    key("builder",                 "",                        Refused(Kind::Map),  No,  ""),
    key("deprecated-key-path",     "",                        Refused(Kind::Text), No,  ""),
    key("bip6",                    "bip6",                    Refused(Kind::Text), No,  ""),
    key("fixed-cidr",              "fixed-cidr",              Refused(Kind::Text), No,  ""),
    key("fixed-cidr-v6",           "fixed-cidr-v6",           Refused(Kind::Text), No,  ""),
    key("default-gateway",         "default-gateway",         Refused(Kind::Text), No,  ""),
    key("default-gateway-v6",      "default-gateway-v6",      Refused(Kind::Text), No,  ""),
    key("ip",                      "ip",                      Refused(Kind::Text), No,  ""),
    key("userland-proxy-path",     "userland-proxy-path",     Refused(Kind::Text), No,  ""),
    key("default-address-pools",   "default-address-pool",    Refused(Kind::List), No,  ""),
    key("default-network-opts",    "default-network-opt",     Refused(Kind::Map),  No,  ""),
    key("exec-opts",               "exec-opt",                Refused(Kind::List), No,  ""),
    key("seccomp-profile",         "seccomp-profile",         Refused(Kind::Text), No,  ""),
    key("cpu-rt-period",           "cpu-rt-period",           Refused(Kind::Int),  No,  ""),
    key("cpu-rt-runtime",          "cpu-rt-runtime",          Refused(Kind::Int),  No,  ""),
    key("oom-score-adjust",        "oom-score-adjust",        Refused(Kind::Int),  No,  ""),
    key("swarm-default-advertise-addr", "swarm-default-advertise-addr", Refused(Kind::Text), No, ""),
    key("node-generic-resources",  "node-generic-resource",   Refused(Kind::List), No,  ""),
    key("network-control-plane-mtu", "network-control-plane-mtu", Refused(Kind::Int), No, ""),
    key("network-diagnostic-port", "network-diagnostic-port", Refused(Kind::Int),  Yes, ""),
    key("cluster-store",           "cluster-store",           Refused(Kind::Text), Yes, ""),
    key("cluster-advertise",       "cluster-advertise",       Refused(Kind::Text), Yes, ""),
    key("cluster-store-opts",      "cluster-store-opt",       Refused(Kind::Map),  Yes, ""),
    key("containerd",              "containerd",              Refused(Kind::Text), No,  ""),
    key("containerd-namespace",    "containerd-namespace",    Refused(Kind::Text), No,  ""),
    key("containerd-plugins-namespace", "containerd-plugins-namespace", Refused(Kind::Text), No, ""),
    key("cri-containerd",          "cri-containerd",          Refused(Kind::Bool), No,  ""),
    key("cdi-spec-dirs",           "cdi-spec-dir",            Refused(Kind::List), No,  ""),
    key("http-proxy",              "http-proxy",              Refused(Kind::Text), No,  ""),
    key("https-proxy",             "https-proxy",             Refused(Kind::Text), No,  ""),
    key("no-proxy",                "no-proxy",                Refused(Kind::Text), No,  ""),
    key("host-gateway-ip",         "host-gateway-ip",         Refused(Kind::Text), No,  ""),
    key("host-gateway-ips",        "",                        Refused(Kind::List), No,  ""),
    key("",                        "rootless",                Refused(Kind::Bool), No,  ""),
    key("",                        "validate",                Fixed(Kind::Bool, "true"), No, "Validate daemon configuration and exit"),
    short('v', key("",             "version",                 Fixed(Kind::Bool, "true"), No, "Print version information and quit")),
    short('h', key("",             "help",                    Fixed(Kind::Bool, "true"), No, "Print usage")),
];
