//! Every key of `HostConfig`, and whether this version does what it says.

use berth_api::container::HostConfig;
use serde_json::Value;

use crate::error::RuntimeError;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is carried out: by this crate, the engine, the networks or the volumes.
    Works,
    /// The networks refuse it by the feature's name, but where it has no effect anyway (published
    /// ports on the host's network).
    ByNetworks,
    /// It means something on another system only, and Docker ignores it here too.
    Ignored,
    /// It is refused by name, unless it is empty or has one of these values, which change nothing.
    Refused(&'static [&'static str]),
}

use Support::{ByNetworks, Ignored, Refused, Works};

/// All keys, in the order of Docker's reference.
#[rustfmt::skip]
pub const FIELDS: &[(&str, Support)] = &[
    ("Binds",                Works),
    ("ContainerIDFile",      Ignored),
    ("LogConfig",            Works),
    ("NetworkMode",          Works),
    ("PortBindings",         ByNetworks),
    ("RestartPolicy",        Works),
    ("AutoRemove",           Works),
    ("VolumeDriver",         Works),
    ("VolumesFrom",          Works),
    ("ConsoleSize",          Works),
    ("Annotations",          Works),
    ("CapAdd",               Works),
    ("CapDrop",              Works),
    ("CgroupnsMode",         Works),
    ("Dns",                  Works),
    ("DnsOptions",           Works),
    ("DnsSearch",            Works),
    ("ExtraHosts",           Works),
    ("GroupAdd",             Works),
    ("IpcMode",              Works),
    ("Cgroup",               Refused(&[])),
    ("Links",                ByNetworks),
    ("OomScoreAdj",          Works),
    ("PidMode",              Works),
    ("Privileged",           Works),
    ("PublishAllPorts",      ByNetworks),
    ("ReadonlyRootfs",       Works),
    ("SecurityOpt",          Works),
    ("StorageOpt",           Works),
    ("Tmpfs",                Works),
    ("UTSMode",              Works),
    ("UsernsMode",           Works),
    ("ShmSize",              Works),
    ("Sysctls",              Works),
    ("Runtime",              Refused(&["runc", "io.containerd.runc.v2"])),
    ("Isolation",            Works),
    ("CpuShares",            Works),
    ("Memory",               Works),
    ("NanoCpus",             Works),
    ("CgroupParent",         Works),
    ("BlkioWeight",          Works),
    ("BlkioWeightDevice",    Refused(&[])),
    ("BlkioDeviceReadBps",   Works),
    ("BlkioDeviceWriteBps",  Works),
    ("BlkioDeviceReadIOps",  Works),
    ("BlkioDeviceWriteIOps", Works),
    ("CpuPeriod",            Works),
    ("CpuQuota",             Works),
    ("CpuRealtimePeriod",    Works),
    ("CpuRealtimeRuntime",   Works),
    ("CpusetCpus",           Works),
    ("CpusetMems",           Works),
    ("Devices",              Works),
    ("DeviceCgroupRules",    Works),
    ("DeviceRequests",       Refused(&[])),
    ("KernelMemory",         Works),
    ("KernelMemoryTCP",      Works),
    ("MemoryReservation",    Works),
    ("MemorySwap",           Works),
    ("MemorySwappiness",     Works),
    // libcontainer 0.7.0 drops it on the way to libcgroups.
    ("OomKillDisable",       Refused(&[])),
    ("PidsLimit",            Works),
    ("Ulimits",              Works),
    ("CpuCount",             Ignored),
    ("CpuPercent",           Ignored),
    ("IOMaximumIOps",        Works),
    ("IOMaximumBandwidth",   Works),
    ("Mounts",               Works),
    ("MaskedPaths",          Works),
    ("ReadonlyPaths",        Works),
    ("Init",                 Works),
];

/// Refuses the first field that asks for something this version does not do.
pub fn check(config: &HostConfig) -> Result<(), RuntimeError> {
    let json = serde_json::to_value(config)
        .map_err(|source| RuntimeError::Encode { what: "HostConfig", source })?;
    for (field, support) in FIELDS {
        if let Refused(fine) = support
            && json.get(field).is_some_and(|value| !is_harmless(value, fine))
        {
            return Err(RuntimeError::unsupported(*field));
        }
    }
    Ok(())
}

fn is_harmless(value: &Value, fine: &[&str]) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || fine.contains(&text.as_str()),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_of_host_config_is_in_the_table_once() {
        let mut known: Vec<&str> = FIELDS.iter().map(|(field, _)| *field).collect();
        let mut real: Vec<&str> = berth_api::json::keys::<HostConfig>().to_vec();
        known.sort_unstable();
        real.sort_unstable();
        assert_eq!(known, real);
    }

    #[test]
    fn refused_fields_are_refused_by_name_and_their_harmless_values_are_not() {
        #[rustfmt::skip]
        let table = [
            ("Cgroup",            json!("container:x")),
            ("Runtime",           json!("kata")),
            ("BlkioWeightDevice", json!([{"Path": "/dev/sda", "Weight": 10}])),
            ("DeviceRequests",    json!([{"Driver": "cdi"}])),
            ("OomKillDisable",    json!(true)),
        ];
        let refused = FIELDS.iter().filter(|(_, support)| matches!(support, Refused(_)));
        assert_eq!(refused.count(), table.len(), "each refused field has a row here");
        for (field, value) in table {
            let config: HostConfig = serde_json::from_value(json!({ field: value })).unwrap();
            assert_eq!(
                check(&config).unwrap_err().to_string(),
                format!("{field} is not supported by this version of berth")
            );
        }
        let harmless = json!({
            "Runtime": "runc", "DeviceRequests": [], "BlkioWeightDevice": null,
            "OomKillDisable": false,
        });
        check(&serde_json::from_value(harmless).unwrap()).unwrap();
        check(&HostConfig::default()).unwrap();
    }
}
