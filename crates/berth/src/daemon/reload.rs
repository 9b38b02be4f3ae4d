//! SIGHUP: the file is read again, and what may change is taken over.

use std::collections::BTreeMap;

use berth_engine::{Engine, Reloadable};
use berth_types::kind::chain;

use super::config::keys::{KEYS, Key, Reload, Slot};
use super::config::{Config, Flags};
use super::logging::LevelSwitch;

/// Reads the file again. Where it is wrong nothing changes and the daemon goes on.
pub(super) fn reload(engine: &Engine, current: &mut Config, flags: &Flags, level: &LevelSwitch) {
    let (new, keys) = match Config::load(flags) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return;
        }
    };
    take_over(current, new, &keys);
    level.set(current.effective_level());
    let config = current.engine(engine.config().shim.clone(), Vec::new());
    engine.reload(Reloadable::from(&config), attributes(current));
    let shown = serde_json::to_string(&attributes(current)).unwrap_or_default();
    tracing::info!(config = shown, "Reloaded configuration");
}

/// Copies every setting that may change and that the file has. One that it does not have stays as
/// it is, as in Docker.
fn take_over(current: &mut Config, mut new: Config, keys: &[&str]) {
    let may_change = |key: &&Key| key.reload == Reload::Yes && keys.contains(&key.json);
    for key in KEYS.iter().filter(may_change) {
        match key.slot {
            Slot::Bool(field) => *field(current) = *field(&mut new),
            Slot::Int(field) | Slot::Size(field) => *field(current) = *field(&mut new),
            Slot::Text(field) => *field(current) = std::mem::take(field(&mut new)),
            Slot::List(field) => *field(current) = std::mem::take(field(&mut new)),
            Slot::Map(field) => *field(current) = std::mem::take(field(&mut new)),
            Slot::Ulimits(field) => *field(current) = std::mem::take(field(&mut new)),
            Slot::Fixed(..) | Slot::Refused(_) => {}
        }
    }
}

/// The attributes of the event `daemon reload`.
fn attributes(config: &Config) -> BTreeMap<String, String> {
    let list = |list: &[String]| serde_json::to_string(list).unwrap_or_default();
    let pairs = [
        ("name", berth_sys::system::host_name()),
        ("debug", config.debug.to_string()),
        ("labels", list(&config.labels)),
        ("live-restore", config.live_restore.to_string()),
        ("shutdown-timeout", config.shutdown_timeout.to_string()),
        ("insecure-registries", list(&config.insecure)),
        ("registry-mirrors", list(&config.mirrors)),
        ("max-concurrent-downloads", config.downloads.to_string()),
        ("max-concurrent-uploads", config.uploads.to_string()),
        ("max-download-attempts", config.download_attempts.to_string()),
        ("features", "map[]".to_owned()),
        ("default-runtime", "runc".to_owned()),
        ("runtimes", "runc:runc".to_owned()),
        ("default-shm-size", config.shm_size.to_string()),
        ("default-ipc-mode", config.ipc_mode.clone()),
        ("default-cgroupns-mode", config.cgroupns_mode.clone()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reloadable_settings_of_the_file_are_taken_over() {
        let mut current = Config::default();
        let new = Config {
            debug: true,
            labels: vec!["a=b".to_owned()],
            live_restore: false,
            data_root: "/elsewhere".to_owned(),
            bridge: "none".to_owned(),
            shutdown_timeout: 99,
            ..Config::default()
        };
        let keys = ["debug", "labels", "live-restore", "data-root", "bridge"];
        take_over(&mut current, new, &keys);
        let expected = Config {
            debug: true,
            labels: vec!["a=b".to_owned()],
            live_restore: false,
            ..Config::default()
        };
        assert_eq!(current, expected);
    }
}
