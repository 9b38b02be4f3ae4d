//! Whether values make sense, in Docker's words where Docker has words.

use std::net::IpAddr;
use std::path::Path;

use super::Config;

/// What overlay2 can stack, less a container's own and its init layer.
const MOST_IMAGE_LAYERS: i64 = 498;

/// Why a value was refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("invalid logging level: {level}")]
    LogLevel { level: String },
    #[error("invalid log format: {format}")]
    LogFormat { format: String },
    #[error("IP address is not correctly formatted: {text}")]
    Ip { text: String },
    #[error("{text} is not a valid domain")]
    Domain { text: String },
    #[error("bad attribute format: {text}")]
    Label { text: String },
    #[error("conflict labels for {first} and {second}")]
    LabelConflict { first: String, second: String },
    #[error("invalid default MTU: {0}")]
    Mtu(i64),
    #[error("invalid max concurrent downloads: {0}")]
    Downloads(i64),
    #[error("invalid max concurrent uploads: {0}")]
    Uploads(i64),
    #[error("invalid max download attempts: {0}")]
    Attempts(i64),
    #[error("invalid max image layers: {0} (1 to {MOST_IMAGE_LAYERS})")]
    ImageLayers(i64),
    #[error("invalid mirror: {reason}")]
    Mirror { reason: String },
    #[error("insecure registry {text} {reason}")]
    Insecure { text: String, reason: &'static str },
    #[error("invalid shutdown timeout: {0}")]
    ShutdownTimeout(i64),
    #[error("default IPC mode setting ({mode}) is invalid; use \"shareable\" or \"private\"")]
    IpcMode { mode: String },
    #[error("default cgroup namespace mode ({mode}) is invalid; use \"host\" or \"private\"")]
    CgroupnsMode { mode: String },
    #[error("You specified -b & --bip, mutually exclusive options. Please specify only one")]
    BridgeAndBip,
    #[error("invalid CIDR address: {text}")]
    Cidr { text: String },
    #[error("invalid storage option: {text}: it must be KEY=VALUE")]
    StorageOpt { text: String },
    #[error("logger: no log driver named '{name}' is registered")]
    NoLogDriver { name: String },
    #[error("log-driver {name} is not supported by this version of berth")]
    LogDriver { name: String },
    #[error("unknown log opt '{name}' for {driver} log driver")]
    LogOpt { name: String, driver: String },
    #[error("invalid ulimit argument: {text}")]
    Ulimit { text: String },
    #[error("invalid ulimit type: {name}")]
    UlimitType { name: String },
    #[error("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    UlimitOrder { soft: i64, hard: i64 },
    #[error("invalid bind address ({host}): unsupported proto '{proto}'")]
    HostProto { host: String, proto: String },
    #[error("invalid bind address ({host}): {reason}")]
    Host { host: String, reason: &'static str },
    #[error("{what} must be an absolute path, not {path:?}")]
    Relative { what: &'static str, path: String },
    #[error("{name} has no effect without tls or tlsverify")]
    TlsUnused { name: &'static str },
    #[error("{text:?} is not a number")]
    NotANumber { text: String },
    #[error(transparent)]
    Size(berth_types::size::SizeError),
}

/// The levels that `--log-level` takes.
pub(crate) const LEVELS: &[&str] =
    &["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];

const LOG_DRIVERS_ELSEWHERE: &[&str] =
    &["awslogs", "fluentd", "gcplogs", "gelf", "journald", "local", "splunk", "syslog"];
const JSON_FILE_OPTS: &[&str] =
    &["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];
/// What every driver takes.
const COMMON_LOG_OPTS: &[&str] = &["mode", "max-buffer-size"];

impl Config {
    /// Checks the merged settings, and fills in what follows from them.
    pub(super) fn check(&mut self) -> Result<(), ValueError> {
        self.check_logging()?;
        self.check_lists()?;
        self.check_numbers()?;
        self.check_modes()?;
        self.check_network()?;
        super::registries::check(self)?;
        for (what, path) in [
            ("data-root", &self.data_root),
            ("exec-root", &self.exec_root),
            ("registry-certs", &self.certs_dir),
        ] {
            if !Path::new(path).is_absolute() {
                return Err(ValueError::Relative { what, path: path.clone() });
            }
        }
        if !self.tls {
            let files = [
                ("tlscacert", &self.tls_ca_cert),
                ("tlscert", &self.tls_cert),
                ("tlskey", &self.tls_key),
            ];
            if let Some((name, _)) = files.into_iter().find(|(_, path)| !path.is_empty()) {
                return Err(ValueError::TlsUnused { name });
            }
        }
        if self.hosts.is_empty() {
            self.hosts.push(super::DEFAULT_HOST.to_owned());
        }
        let mut seen = Vec::new();
        for host in &self.hosts {
            let host = normal_host(host, self.tls)?;
            if !seen.contains(&host) {
                seen.push(host);
            }
        }
        self.hosts = seen;
        Ok(())
    }

    fn check_logging(&self) -> Result<(), ValueError> {
        if !LEVELS.contains(&self.log_level.as_str()) {
            return Err(ValueError::LogLevel { level: self.log_level.clone() });
        }
        if !["text", "json"].contains(&self.log_format.as_str()) {
            return Err(ValueError::LogFormat { format: self.log_format.clone() });
        }
        let driver = &self.log_driver;
        if LOG_DRIVERS_ELSEWHERE.contains(&driver.as_str()) {
            return Err(ValueError::LogDriver { name: driver.clone() });
        }
        if !["json-file", "none"].contains(&driver.as_str()) {
            return Err(ValueError::NoLogDriver { name: driver.clone() });
        }
        let known = |name: &str| {
            driver == "json-file"
                && (JSON_FILE_OPTS.contains(&name) || COMMON_LOG_OPTS.contains(&name))
        };
        match self.log_opts.keys().find(|name| !known(name)) {
            Some(name) => Err(ValueError::LogOpt { name: name.clone(), driver: driver.clone() }),
            None => Ok(()),
        }
    }

    fn check_lists(&mut self) -> Result<(), ValueError> {
        for text in &self.dns {
            ip(text)?;
        }
        for text in &self.dns_search {
            domain(text)?;
        }
        let mut labels: Vec<String> = Vec::new();
        for text in &self.labels {
            label(text)?;
            let name = text.split('=').next();
            match labels.iter().find(|other| other.split('=').next() == name) {
                Some(first) if first != text => {
                    let (first, second) = (first.clone(), text.clone());
                    return Err(ValueError::LabelConflict { first, second });
                }
                Some(_) => {}
                None => labels.push(text.clone()),
            }
        }
        self.labels = labels;
        match self.storage_opts.iter().find(|text| !text.contains('=')) {
            Some(text) => Err(ValueError::StorageOpt { text: text.clone() }),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), ValueError> {
        if self.shutdown_timeout < -1 {
            return Err(ValueError::ShutdownTimeout(self.shutdown_timeout));
        }
        if self.downloads < 0 {
            return Err(ValueError::Downloads(self.downloads));
        }
        if self.uploads < 0 {
            return Err(ValueError::Uploads(self.uploads));
        }
        if self.download_attempts < 0 {
            return Err(ValueError::Attempts(self.download_attempts));
        }
        if !(1..=MOST_IMAGE_LAYERS).contains(&self.max_image_layers) {
            return Err(ValueError::ImageLayers(self.max_image_layers));
        }
        if self.mtu < 0 || self.mtu > 65_535 {
            return Err(ValueError::Mtu(self.mtu));
        }
        Ok(())
    }

    fn check_modes(&self) -> Result<(), ValueError> {
        if !["shareable", "private"].contains(&self.ipc_mode.as_str()) {
            return Err(ValueError::IpcMode { mode: self.ipc_mode.clone() });
        }
        if !["", "host", "private"].contains(&self.cgroupns_mode.as_str()) {
            return Err(ValueError::CgroupnsMode { mode: self.cgroupns_mode.clone() });
        }
        Ok(())
    }

    fn check_network(&self) -> Result<(), ValueError> {
        if !self.bridge.is_empty() && !self.bip.is_empty() {
            return Err(ValueError::BridgeAndBip);
        }
        if self.bip.is_empty() {
            return Ok(());
        }
        let valid = self.bip.split_once('/').is_some_and(|(address, prefix)| {
            address.parse::<std::net::Ipv4Addr>().is_ok()
                && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 32)
        });
        if valid { Ok(()) } else { Err(ValueError::Cidr { text: self.bip.clone() }) }
    }

    /// `--tlsverify` implies `--tls`; files that are not named are Docker's.
    pub(super) fn fill_tls(&mut self) {
        self.tls |= self.tls_verify;
        if !self.tls {
            return;
        }
        let directory = std::env::var("DOCKER_CERT_PATH")
            .ok()
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| format!("{}/.docker", std::env::var("HOME").unwrap_or_default()));
        for (file, name) in [
            (&mut self.tls_ca_cert, "ca.pem"),
            (&mut self.tls_cert, "cert.pem"),
            (&mut self.tls_key, "key.pem"),
        ] {
            if file.is_empty() {
                *file = format!("{directory}/{name}");
            }
        }
    }
}

/// What dockerd already checks while it reads a flag.
pub(super) fn flag_value(flag: &str, value: &str) -> Result<(), ValueError> {
    match flag {
        "label" => label(value),
        "dns" => ip(value),
        "dns-search" => domain(value),
        "host" => normal_host(value, false).map(|_| ()),
        _ => Ok(()),
    }
}

fn label(text: &str) -> Result<(), ValueError> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(()),
        _ => Err(ValueError::Label { text: text.to_owned() }),
    }
}

fn ip(text: &str) -> Result<(), ValueError> {
    match text.trim().parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(ValueError::Ip { text: text.to_owned() }),
    }
}

fn domain(text: &str) -> Result<(), ValueError> {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = text.trim().trim_end_matches('.');
    let good = text.trim() == "."
        || (name.len() < 255
            && name.split('.').all(part)
            && name.bytes().any(|b| b.is_ascii_alphabetic()));
    if good { Ok(()) } else { Err(ValueError::Domain { text: text.to_owned() }) }
}

/// A host with its default port, and without what Docker strips.
fn normal_host(host: &str, tls: bool) -> Result<String, ValueError> {
    let text = host.trim();
    let bad = |reason| ValueError::Host { host: host.to_owned(), reason };
    if text.is_empty() {
        return Ok(super::DEFAULT_HOST.to_owned());
    }
    let (proto, address) = text.split_once("://").unwrap_or(("tcp", text));
    match proto {
        "unix" if address.is_empty() => Ok(super::DEFAULT_HOST.to_owned()),
        "unix" if !address.starts_with('/') => Err(bad("a unix socket needs an absolute path")),
        "unix" | "fd" => Ok(text.to_owned()),
        "tcp" => {
            let default = if tls { 2376 } else { 2375 };
            let (name, port) = match address.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => (name, port),
                _ => (address, ""),
            };
            let port: u16 = match port {
                "" => default,
                port => port.parse().map_err(|_unread| bad("invalid port"))?,
            };
            let name = match name {
                "" => "127.0.0.1",
                name if name.contains(['/', '?', '#']) => {
                    return Err(bad("should not contain a path element"));
                }
                name => name,
            };
            Ok(format!("tcp://{name}:{port}"))
        }
        _ => Err(ValueError::HostProto { host: host.to_owned(), proto: proto.to_owned() }),
    }
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads `NAME=SOFT[:HARD]`.
pub(crate) fn parse_ulimit(text: &str) -> Result<(String, (i64, i64)), ValueError> {
    let bad = || ValueError::Ulimit { text: text.to_owned() };
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft: i64 = soft.parse().map_err(|_unread| bad())?;
    let hard: i64 = hard.parse().map_err(|_unread| bad())?;
    ulimit(name, soft, hard)?;
    Ok((name.to_owned(), (soft, hard)))
}

/// Checks a ulimit's name and that the soft limit is not above the hard one (-1 is no limit).
pub(super) fn ulimit(name: &str, soft: i64, hard: i64) -> Result<(), ValueError> {
    if !ULIMITS.contains(&name) {
        return Err(ValueError::UlimitType { name: name.to_owned() });
    }
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(ValueError::UlimitOrder { soft, hard });
    }
    Ok(())
}
