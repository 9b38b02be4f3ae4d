//! What a create request leaves open, filled in as Docker does.

use berth_api::ApiVersion;
use berth_api::container::{ContainerConfig, HealthConfig, HostConfig, Ulimit};
use berth_images::Image;
use berth_types::ContainerId;

use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// Fills in the defaults and refuses what cannot be.
pub(crate) fn fill(
    engine: &Engine,
    config: &mut ContainerConfig,
    host: &mut HostConfig,
    version: ApiVersion,
) -> Result<(), EngineError> {
    let daemon = engine.config();
    let now = engine.reloadable();
    if matches!(host.network_mode.as_str(), "" | "default") {
        "bridge".clone_into(&mut host.network_mode);
    }
    if !version.has_auto_remove() {
        host.auto_remove = false;
    }
    if host.shm_size == 0 {
        host.shm_size = i64::try_from(now.shm_size).unwrap_or(i64::MAX);
    }
    if host.ipc_mode.is_empty() {
        let default = if version.has_private_ipc() { now.ipc_mode.as_str() } else { "shareable" };
        default.clone_into(&mut host.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        let by_version = if engine.host().cgroups.version() == "2" { "private" } else { "host" };
        let default = if now.cgroupns_mode.is_empty() { by_version } else { &now.cgroupns_mode };
        let default = if host.privileged && by_version == "host" { "host" } else { default };
        default.clone_into(&mut host.cgroupns_mode);
    }
    if host.cgroup_parent.is_empty() {
        daemon.cgroup_parent.clone_into(&mut host.cgroup_parent);
    }
    if host.init.is_none() && daemon.init {
        host.init = Some(true);
    }
    fill_log(engine, host);
    fill_limits(engine, host);
    if host.pids_limit.is_some_and(|limit| limit <= 0) {
        host.pids_limit = None;
    }
    if config.volumes.is_empty() {
        config.volumes = berth_api::Dict::null();
    }
    berth_runtime::validate::fill_defaults(host, engine.host());
    if !config.stop_signal.is_empty() {
        super::signal::parse(&config.stop_signal)?;
    }
    check_restart(host)
}

/// The host name of a container whose creator gives none. Only after the settings were checked: one
/// that is given conflicts with some of them.
pub(crate) fn fill_hostname(id: &ContainerId, config: &mut ContainerConfig, host: &HostConfig) {
    if !config.hostname.is_empty() || host.network_mode.starts_with("container:") {
        return;
    }
    config.hostname = if host.network_mode == "host" || host.uts_mode == "host" {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        id.short().to_owned()
    };
}

fn fill_log(engine: &Engine, host: &mut HostConfig) {
    let daemon = engine.config();
    let same_driver =
        host.log_config.driver.is_empty() || host.log_config.driver == daemon.log_driver;
    if host.log_config.driver.is_empty() {
        daemon.log_driver.clone_into(&mut host.log_config.driver);
    }
    if same_driver {
        for (key, value) in &daemon.log_opts {
            host.log_config.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if host.log_config.config.is_null() {
        host.log_config.config = berth_api::Dict::empty();
    }
}

fn fill_limits(engine: &Engine, host: &mut HostConfig) {
    for (name, &(soft, hard)) in &engine.config().ulimits {
        if !host.ulimits.iter().any(|ulimit| ulimit.name == *name) {
            host.ulimits.push(Ulimit { name: name.clone(), hard, soft });
        }
    }
}

pub(crate) fn check_restart(host: &mut HostConfig) -> Result<(), EngineError> {
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
    let policy = &host.restart_policy;
    let refuse = |text: &str| {
        Err(EngineError::from(ContainerError::RestartPolicy { text: text.to_owned() }))
    };
    match policy.name.as_str() {
        "no" | "always" | "unless-stopped" if policy.maximum_retry_count != 0 => {
            let mut text = "maximum retry count can only be used with 'on-failure'".to_owned();
            if policy.maximum_retry_count < 0 {
                text.push_str(" and cannot be negative");
            }
            refuse(&text)
        }
        "on-failure" if policy.maximum_retry_count < 0 => {
            refuse("maximum retry count cannot be negative")
        }
        "always" | "unless-stopped" | "on-failure" if host.auto_remove => {
            Err(ContainerError::AutoRemoveRestart.into())
        }
        "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => refuse(&format!(
            "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        )),
    }
}

/// Health checks are not run yet: one that the creator asks for is refused, one that comes with the
/// image is pointed out.
pub(crate) fn check_health(
    config: &ContainerConfig,
    image: Option<&Image>,
) -> Result<Option<String>, EngineError> {
    let is_check = |check: &HealthConfig| {
        !check.test.is_empty() && check.test.first().is_none_or(|kind| kind != "NONE")
    };
    match &config.healthcheck {
        Some(own) if is_check(own) => Err(ContainerError::NotBuilt { what: "Healthcheck" }.into()),
        Some(_) => Ok(None),
        None => {
            let image = image.and_then(|image| image.config.config());
            let check = image.and_then(|config| config.healthcheck.as_ref());
            let is_dropped = check.is_some_and(is_check);
            Ok(is_dropped
                .then(|| "The image's health check is not run by this version of berth".to_owned()))
        }
    }
}

/// Docker's warning about an image of another architecture; an explicit platform that the image
/// does not have is an error.
pub(crate) fn platform_warning(
    image: &Image,
    platform: Option<&str>,
) -> Result<Option<String>, EngineError> {
    let host = format!("linux/{}", berth_images::config::host_architecture());
    let own = format!("{}/{}", image.config.os(), image.config.architecture());
    match platform.filter(|platform| !platform.is_empty()) {
        None if own != host && !image.config.architecture().is_empty() => Ok(Some(format!(
            "The requested image's platform ({own}) does not match the detected host platform \
             ({host}) and no specific platform was requested"
        ))),
        Some(asked) if !same_platform(asked, &own) => {
            Err(ContainerError::Platform { asked: asked.to_owned(), own, image: image.id.clone() }
                .into())
        }
        _ => Ok(None),
    }
}

/// Whether `asked` (`linux/amd64`, `amd64`, `linux/arm64/v8`) names the platform `own`.
fn same_platform(asked: &str, own: &str) -> bool {
    let asked = asked.to_ascii_lowercase();
    let full = if asked.contains('/') { asked } else { format!("linux/{asked}") };
    full == own || full.starts_with(&format!("{own}/"))
}
