//! What is checked when a container is created, with Docker's texts.

use berth_api::container::{ContainerConfig, HostConfig};

use crate::cgroup::Mode;
use crate::devices;
use crate::error::RuntimeError;
use crate::fields;
use crate::host::Host;
use crate::limits::{self, Purpose};
use crate::mounts;
use crate::seccomp;
use crate::security::{BUILTIN, Security, UNCONFINED};
use crate::{caps, spec};

const DEFAULT_SHM: i64 = 64 << 20;
const CONTAINER: &str = "container:";

/// Fills in Docker's defaults: what `inspect` shows of fields that nobody set.
pub fn fill_defaults(config: &mut HostConfig, host: &Host) {
    if config.memory > 0 && config.memory_swap == 0 {
        config.memory_swap = config.memory.saturating_mul(2);
    }
    if config.shm_size == 0 {
        config.shm_size = DEFAULT_SHM;
    }
    if config.ipc_mode.is_empty() {
        "private".clone_into(&mut config.ipc_mode);
    }
    if config.cgroupns_mode.is_empty() {
        let private = host.cgroups.mode == Mode::V2;
        let mode = if private { "private" } else { "host" };
        mode.clone_into(&mut config.cgroupns_mode);
    }
    if config.oom_kill_disable.is_none() {
        config.oom_kill_disable = Some(false);
    }
    if config.runtime.is_empty() {
        "runc".clone_into(&mut config.runtime);
    }
}

/// Checks a new container's settings. Limits that this machine does not have are taken out of
/// `host_config`, each with a warning in the answer. Fill in the defaults first.
pub fn validate(
    config: &ContainerConfig,
    host_config: &mut HostConfig,
    host: &Host,
) -> Result<Vec<String>, RuntimeError> {
    check_process(config)?;
    check_modes(config, host_config)?;
    check_values(host_config)?;
    check_privileges(host_config, host)?;
    let mut warnings = limits::adapt(host_config, host, Purpose::Create)?;
    // Afterwards: what this machine cannot do is discarded with Docker's warning, not refused.
    fields::check(host_config)?;
    let host_network = host_config.network_mode == "host";
    if !host.ipv4_forwarding && !host_network && host_config.network_mode != "none" {
        warnings.push("IPv4 forwarding is disabled. Networking will not work.".to_owned());
    }
    if host_network && !host_config.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host_config.cgroupns_mode == "private" && !host.cgroup_namespaces {
        warnings.push(
            "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded."
                .to_owned(),
        );
        "host".clone_into(&mut host_config.cgroupns_mode);
    }
    Ok(warnings)
}

fn refuse(text: String) -> Result<(), RuntimeError> {
    Err(RuntimeError::Invalid { text })
}

fn check_process(config: &ContainerConfig) -> Result<(), RuntimeError> {
    spec::args(config)?;
    check_working_dir(&config.working_dir)?;
    check_env(&config.env)
}

/// Empty, or absolute.
pub(crate) fn check_working_dir(dir: &str) -> Result<(), RuntimeError> {
    if dir.is_empty() || dir.starts_with('/') {
        return Ok(());
    }
    refuse(format!("the working directory '{dir}' is invalid, it needs to be an absolute path"))
}

/// Every variable has a name; and no NUL, which would cut it off.
pub(crate) fn check_env(env: &[String]) -> Result<(), RuntimeError> {
    match env.iter().find(|var| var.is_empty() || var.starts_with('=') || var.contains('\0')) {
        Some(var) => refuse(format!("invalid environment variable: {var}")),
        None => Ok(()),
    }
}

fn check_modes(config: &ContainerConfig, host_config: &HostConfig) -> Result<(), RuntimeError> {
    let joins = |mode: &str| mode.strip_prefix(CONTAINER).is_some_and(|name| !name.is_empty());
    let one_of = |mode: &str, modes: &[&str]| modes.contains(&mode) || joins(mode);
    if !one_of(&host_config.ipc_mode, &["", "private", "shareable", "host", "none"]) {
        return refuse(format!("invalid IPC mode: {}", host_config.ipc_mode));
    }
    if !one_of(&host_config.pid_mode, &["", "host"]) {
        return refuse(format!("invalid PID mode: {}", host_config.pid_mode));
    }
    if !["", "host"].contains(&host_config.uts_mode.as_str()) {
        return refuse(format!("invalid UTS mode: {}", host_config.uts_mode));
    }
    if !["", "private", "host"].contains(&host_config.cgroupns_mode.as_str()) {
        return refuse(format!("invalid cgroup namespace mode: {}", host_config.cgroupns_mode));
    }
    if !["", "default"].contains(&host_config.isolation.as_str()) {
        return refuse(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host_config.isolation
        ));
    }
    if !["", "host"].contains(&host_config.userns_mode.as_str()) {
        return refuse(format!("invalid userns mode: {}", host_config.userns_mode));
    }
    if host_config.uts_mode == "host" && !config.hostname.is_empty() {
        return refuse("conflicting options: hostname and the UTS mode".to_owned());
    }
    check_network_mode(config, host_config)
}

/// What a container with a user namespace of its own cannot have.
pub fn check_remapped(host_config: &HostConfig) -> Result<(), RuntimeError> {
    let HostConfig { privileged, network_mode, pid_mode, .. } = host_config;
    let text = if *privileged {
        "privileged mode is incompatible with user namespaces.  You must run the container in the \
         host namespace when running privileged mode"
    } else if network_mode == "host" {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if pid_mode == "host" {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    refuse(text.to_owned())
}

fn check_network_mode(
    config: &ContainerConfig,
    host_config: &HostConfig,
) -> Result<(), RuntimeError> {
    let mode = host_config.network_mode.as_str();
    if mode == "host" && !host_config.links.is_empty() {
        return refuse("conflicting options: host type networking can't be used with links. This would result in undefined behavior".to_owned());
    }
    if mode != "container" && !mode.starts_with(CONTAINER) {
        return Ok(());
    }
    if mode.strip_prefix(CONTAINER).is_none_or(str::is_empty) {
        return refuse(
            "invalid network mode: invalid container format container:<name|id>".to_owned(),
        );
    }
    let published = host_config.publish_all_ports || !host_config.port_bindings.is_empty();
    #[rustfmt::skip]
    let conflicts = [
        (!config.hostname.is_empty(),           "hostname and the network mode"),
        (!host_config.links.is_empty(),         "container type network can't be used with links. This would result in undefined behavior"),
        (!host_config.dns.is_empty(),           "dns and the network mode"),
        (!host_config.extra_hosts.is_empty(),   "custom host-to-IP mapping and the network mode"),
        (published,                             "port publishing and the container type network mode"),
        (!config.exposed_ports.is_empty(),      "port exposing and the container type network mode"),
    ];
    match conflicts.iter().find(|(conflict, _)| *conflict) {
        Some((_, text)) => refuse(format!("conflicting options: {text}")),
        None => Ok(()),
    }
}

fn check_values(config: &HostConfig) -> Result<(), RuntimeError> {
    if config.shm_size < 0 {
        return refuse("SHM size can not be less than 0".to_owned());
    }
    let score = config.oom_score_adj;
    if !(-1000..=1000).contains(&score) {
        return refuse(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    for (destination, options) in &config.tmpfs {
        mounts::check_destination(destination)?;
        mounts::tmpfs_options(options)?;
    }
    if config.annotations.contains_key("") {
        return refuse(
            "invalid Annotations: the empty string is not permitted as an annotation key"
                .to_owned(),
        );
    }
    spec::check_cgroup_parent(&config.cgroup_parent)?;
    limits::check_ulimits(&config.ulimits)
}

fn check_privileges(config: &HostConfig, host: &Host) -> Result<(), RuntimeError> {
    for (what, names) in [("CapAdd", &config.cap_add), ("CapDrop", &config.cap_drop)] {
        caps::resolve(names, &[], false, host.caps)
            .map_err(|error| RuntimeError::invalid(format!("invalid {what}: {error}")))?;
    }
    for rule in &config.device_cgroup_rules {
        devices::Rule::parse(rule)?;
    }
    let security = Security::parse(config)?;
    if let Some(profile) = security.seccomp.filter(|profile| profile != UNCONFINED) {
        if !host.seccomp && profile != BUILTIN {
            return refuse(
                "seccomp is not enabled in your kernel, cannot run a custom seccomp profile"
                    .to_owned(),
            );
        }
        if profile != BUILTIN {
            let arch = seccomp::native_arch();
            let around = seccomp::Circumstances { caps: &[], arch, kernel: host.kernel };
            seccomp::custom(&profile, around)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(config: &Value, host_config: &Value) -> Result<Vec<String>, String> {
        let config: ContainerConfig = serde_json::from_value(config.clone()).unwrap();
        let mut host_config: HostConfig = serde_json::from_value(host_config.clone()).unwrap();
        let host = Host::full();
        fill_defaults(&mut host_config, &host);
        validate(&config, &mut host_config, &host).map_err(|error| berth_types::kind::chain(&error))
    }

    #[test]
    fn remapped_users_do_not_go_with_what_belongs_to_the_hosts() {
        #[rustfmt::skip]
        let table = [
            (json!({}),                       None),
            (json!({"NetworkMode": "none"}),  None),
            (json!({"Privileged": true, "PidMode": "host"}),
             Some("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")),
            (json!({"NetworkMode": "host"}),  Some("cannot share the host's network namespace when user namespaces are enabled")),
            (json!({"PidMode": "host"}),      Some("cannot share the host PID namespace when user namespaces are enabled")),
        ];
        for (config, refusal) in table {
            let host_config: HostConfig = serde_json::from_value(config.clone()).unwrap();
            let got = check_remapped(&host_config).map_err(|error| error.to_string());
            assert_eq!(got.err().as_deref(), refusal, "{config}");
        }
        let mode = |mode: &str| answer(&json!({"Cmd": ["sh"]}), &json!({"UsernsMode": mode}));
        assert!(mode("host").is_ok());
        assert_eq!(mode("private"), Err("invalid userns mode: private".to_owned()));
    }

    #[test]
    fn bad_settings_are_refused_in_dockers_words() {
        let sh = json!({"Cmd": ["sh"]});
        #[rustfmt::skip]
        let table = [
            (json!({}),                                    json!({}), "no command specified"),
            (json!({"Cmd": ["sh"], "WorkingDir": "x"}),    json!({}), "the working directory 'x' is invalid, it needs to be an absolute path"),
            (json!({"Cmd": ["sh"], "Env": ["=x"]}),        json!({}), "invalid environment variable: =x"),
            (sh.clone(), json!({"IpcMode": "x"}),           "invalid IPC mode: x"),
            (sh.clone(), json!({"IpcMode": "container:"}),  "invalid IPC mode: container:"),
            (sh.clone(), json!({"PidMode": "x"}),           "invalid PID mode: x"),
            (sh.clone(), json!({"UTSMode": "x"}),           "invalid UTS mode: x"),
            (sh.clone(), json!({"CgroupnsMode": "x"}),      "invalid cgroup namespace mode: x"),
            (sh.clone(), json!({"Isolation": "hyperv"}),    "invalid isolation (hyperv): linux only supports 'default'"),
            (json!({"Cmd": ["sh"], "Hostname": "h"}), json!({"UTSMode": "host"}), "conflicting options: hostname and the UTS mode"),
            (json!({"Cmd": ["sh"], "Hostname": "h"}), json!({"NetworkMode": "container:a"}), "conflicting options: hostname and the network mode"),
            (sh.clone(), json!({"NetworkMode": "container:"}), "invalid network mode: invalid container format container:<name|id>"),
            (sh.clone(), json!({"ShmSize": -1}),            "SHM size can not be less than 0"),
            (sh.clone(), json!({"OomScoreAdj": 1001}),      "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
            (sh.clone(), json!({"Tmpfs": {"/": ""}}),       "invalid specification: destination can't be '/'"),
            (sh.clone(), json!({"Tmpfs": {"x": ""}}),       "invalid mount path: 'x' mount path must be absolute"),
            (sh.clone(), json!({"Tmpfs": {"/x": "huge"}}),  "invalid tmpfs option [\"huge\"]"),
            (sh.clone(), json!({"CapAdd": ["NOPE"]}),       "invalid CapAdd: unknown capability: \"CAP_NOPE\""),
            (sh.clone(), json!({"CapDrop": ["NOPE"]}),      "invalid CapDrop: unknown capability: \"CAP_NOPE\""),
            (sh.clone(), json!({"DeviceCgroupRules": ["x"]}), "invalid device cgroup rule format: 'x'"),
            (sh.clone(), json!({"SecurityOpt": ["seccomp={"]}), "seccomp profile cannot be used: decoding seccomp profile failed: EOF while parsing an object at line 1 column 1"),
            (sh.clone(), json!({"CgroupParent": "../x"}),   "invalid cgroup parent: \"../x\""),
            (sh.clone(), json!({"Runtime": "kata"}),        "Runtime is not supported by this version of berth"),
            (sh.clone(), json!({"Memory": 5}),              "Minimum memory limit allowed is 6MB"),
        ];
        for (config, host_config, text) in table {
            assert_eq!(answer(&config, &host_config), Err(text.to_owned()), "{host_config}");
        }
    }

    #[test]
    fn good_settings_pass_and_odd_ones_warn() {
        let sh = json!({"Cmd": ["sh"]});
        assert_eq!(answer(&sh, &json!({})), Ok(vec![]));
        assert_eq!(
            answer(&sh, &json!({"NetworkMode": "host", "PortBindings": {"80/tcp": []}})),
            Ok(vec!["Published ports are discarded when using host network mode".to_owned()])
        );
    }

    #[test]
    fn defaults_are_dockers() {
        let mut config = HostConfig { memory: 8 << 20, ..HostConfig::default() };
        fill_defaults(&mut config, &Host::full());
        let expected = HostConfig {
            memory: 8 << 20,
            memory_swap: 16 << 20,
            shm_size: 64 << 20,
            ipc_mode: "private".to_owned(),
            cgroupns_mode: "private".to_owned(),
            oom_kill_disable: Some(false),
            runtime: "runc".to_owned(),
            ..HostConfig::default()
        };
        assert_eq!(config, expected);
    }
}
