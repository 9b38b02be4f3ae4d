//! The options of a local volume: `type`, `device` and `o` of a mount.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;

use berth_fs::atomic::{self, Durability};
use serde::{Deserialize, Serialize};

use crate::VolumeError;

/// The options of a local volume, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// File system type.
    pub kind: String,
    /// What is mounted.
    pub device: String,
    /// Mount options, separated by commas.
    pub options: String,
}

/// `opts.json`, in Docker's form.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OptionsFile {
    mount_type: String,
    mount_opts: String,
    mount_device: String,
    quota: QuotaFile,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct QuotaFile {
    size: u64,
}

impl LocalOptions {
    /// Checks what a request gives: known keys, and `type` and `device` only together, `o` only
    /// with both.
    pub fn check(name: &str, given: &BTreeMap<String, String>) -> Result<(), VolumeError> {
        if let Some(key) =
            given.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o" | "size"))
        {
            return Err(VolumeError::OptionInvalid { name: name.to_owned(), key: key.clone() });
        }
        if given.contains_key("size") {
            return Err(VolumeError::NoQuota { name: name.to_owned() });
        }
        let has = |key: &str| given.contains_key(key);
        let missing =
            |key: &'static str| Err(VolumeError::OptionMissing { name: name.to_owned(), key });
        if (has("type") || has("o")) && !has("device") {
            return missing("device");
        }
        if (has("device") || has("o")) && !has("type") {
            return missing("type");
        }
        Ok(())
    }

    /// Reads options that were checked before.
    pub fn read(given: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| given.get(key).cloned().unwrap_or_default();
        Self { kind: text("type"), device: text("device"), options: text("o") }
    }

    /// Whether a volume with these options is mounted before use.
    pub fn mounts(given: &BTreeMap<String, String>) -> bool {
        given.contains_key("device")
    }

    /// The mount options one by one; for nfs and cifs with the server's name looked up, for the
    /// kernel knows only addresses.
    pub(crate) fn resolved_options(&self) -> Result<Vec<String>, String> {
        let mut options: Vec<String> =
            self.options.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        match self.kind.as_str() {
            "nfs" | "nfs4" => {
                for option in &mut options {
                    if let Some(host) = option.strip_prefix("addr=") {
                        *option = format!("addr={}", look_up(host)?);
                    }
                }
            }
            "cifs" => self.resolve_cifs(&mut options)?,
            _ => {}
        }
        Ok(options)
    }

    /// `//HOST/SHARE` is not looked up by the kernel either.
    fn resolve_cifs(&self, options: &mut Vec<String>) -> Result<(), String> {
        let mut named = false;
        for option in options.iter_mut() {
            if let Some(host) = option.strip_prefix("addr=") {
                *option = format!("addr={}", look_up(host)?);
                named = true;
            }
        }
        if named {
            return Ok(());
        }
        let host = self.device.trim_start_matches('/').split('/').next().unwrap_or_default();
        if host.contains(':') && host.parse::<IpAddr>().is_err() {
            return Err("port not allowed in CIFS device URL, include 'port' in 'o='".to_owned());
        }
        if !host.is_empty() {
            options.push(format!("addr={}", look_up(host)?));
        }
        Ok(())
    }
}

fn look_up(host: &str) -> Result<IpAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let failed =
        |cause: String| format!("error resolving passed in network volume address: {cause}");
    let mut found = (host, 0).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    found.next().map(|address| address.ip()).ok_or_else(|| failed(format!("no address of {host}")))
}

/// Mount options for messages: `password=x` becomes `password=********`.
pub(crate) fn mask_password(options: &str) -> String {
    let mask = |option: &str| {
        if option.starts_with("password=") {
            "password=********".to_owned()
        } else {
            option.to_owned()
        }
    };
    options.split(',').map(mask).collect::<Vec<_>>().join(",")
}

/// Writes `opts.json`, synced.
pub(crate) fn write_file(path: &Path, given: &BTreeMap<String, String>) -> Result<(), VolumeError> {
    let options = LocalOptions::read(given);
    let file = OptionsFile {
        mount_type: options.kind,
        mount_opts: options.options,
        mount_device: options.device,
        quota: QuotaFile::default(),
    };
    let json = serde_json::to_vec(&file).expect("a struct of texts is JSON");
    atomic::write_with(path, &json, 0o600, Durability::Synced)
        .map_err(VolumeError::io("write", path))
}

/// Reads `opts.json` of a volume without a record; none when the file is missing.
pub(crate) fn read_file(path: &Path) -> Result<BTreeMap<String, String>, VolumeError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        bytes => bytes.map_err(VolumeError::io("read", path))?,
    };
    let file: OptionsFile = serde_json::from_slice(&bytes)
        .map_err(io::Error::from)
        .map_err(VolumeError::io("understand", path))?;
    let pairs = [("type", file.mount_type), ("device", file.mount_device), ("o", file.mount_opts)];
    let given = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(given.map(|(key, value)| (key.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (&'static str, &'static str);

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn options_are_refused_as_docker_refuses_them() {
        let (t, d, o) = (("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m"));
        #[rustfmt::skip]
        let table: &[(&[Pair], Option<&str>)] = &[
            (&[],               None),
            (&[t, d],           None),
            (&[t, d, o],        None),
            (&[("foo", "x")],   Some("create v1: invalid option: \"foo\"")),
            (&[t],              Some("create v1: missing required option: \"device\"")),
            (&[d],              Some("create v1: missing required option: \"type\"")),
            (&[o],              Some("create v1: missing required option: \"device\"")),
            (&[("size", "1G")], Some("create v1: quota size requested but no quota support")),
        ];
        for (given, expected) in table {
            let got = LocalOptions::check("v1", &map(given)).err().map(|e| e.to_string());
            assert_eq!(got.as_deref(), *expected, "{given:?}");
        }
    }

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(mask_password("ro,password=x,vers=3"), "ro,password=********,vers=3");
    }

    #[test]
    fn server_addresses_are_given_to_the_kernel() {
        let nfs = |kind: &str, device: &str, options: &str| LocalOptions {
            kind: kind.to_owned(),
            device: device.to_owned(),
            options: options.to_owned(),
        };
        #[rustfmt::skip]
        let table = [
            (nfs("nfs",   ":/x",         "addr=192.0.2.1,vers=4"), Ok("addr=192.0.2.1,vers=4".to_owned())),
            (nfs("cifs",  "//192.0.2.1/s", "user=a"),  Ok("user=a,addr=192.0.2.1".to_owned())),
            (nfs("cifs",  "//h:1/s",     "user=a"),    Err("port not allowed in CIFS device URL, include 'port' in 'o='".to_owned())),
            (nfs("tmpfs", "tmpfs",       "size=1m,,uid=1"), Ok("size=1m,uid=1".to_owned())),
        ];
        for (options, expected) in table {
            assert_eq!(options.resolved_options().map(|list| list.join(",")), expected);
        }
    }
}
