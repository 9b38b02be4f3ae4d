//! What ties a container to this host: limits, privileges, mounts, ports.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use serde::{Deserialize, Serialize};

use super::mount::Mount;
use crate::json::{Dict, List, StrSlice, is_zero};

/// The part of a container's configuration that only makes sense on one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    pub binds: List<String>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    /// `default`, `bridge`, `host`, `none`, `container:<name>` or a network's name.
    pub network_mode: String,
    /// By `80/tcp`.
    pub port_bindings: Dict<List<PortBinding>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub volumes_from: List<String>,
    /// Height, width.
    pub console_size: [u32; 2],
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub annotations: Dict<String>,
    pub cap_add: StrSlice,
    pub cap_drop: StrSlice,
    pub cgroupns_mode: String,
    pub dns: List<String>,
    pub dns_options: List<String>,
    pub dns_search: List<String>,
    pub extra_hosts: List<String>,
    pub group_add: List<String>,
    pub ipc_mode: String,
    pub cgroup: String,
    pub links: List<String>,
    pub oom_score_adj: i64,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: List<String>,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub storage_opt: Dict<String>,
    /// Options by mount point.
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub tmpfs: Dict<String>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: i64,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub sysctls: Dict<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    pub isolation: String,
    pub cpu_shares: i64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub blkio_weight_device: List<BlkioWeightDevice>,
    pub blkio_device_read_bps: List<BlkioThrottle>,
    pub blkio_device_write_bps: List<BlkioThrottle>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: List<BlkioThrottle>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: List<BlkioThrottle>,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: i64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: List<DeviceMapping>,
    pub device_cgroup_rules: List<String>,
    pub device_requests: List<DeviceRequest>,
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel_memory: i64,
    #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
    pub kernel_memory_tcp: i64,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: List<Ulimit>,
    pub cpu_count: i64,
    pub cpu_percent: i64,
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub mounts: List<Mount>,
    /// `null`: Docker's default list.
    pub masked_paths: List<String>,
    /// `null`: Docker's default list.
    pub readonly_paths: List<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// Which log driver, with which options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub driver: String,
    pub config: Dict<String>,
}

/// When the engine starts a container again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// Empty, `no`, `always`, `unless-stopped` or `on-failure`.
    pub name: String,
    pub maximum_retry_count: i64,
}

/// An address and port of the host; both may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// A device of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    /// Some of `rwm`.
    pub cgroup_permissions: String,
}

/// Devices asked of a device driver, such as GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    pub driver: String,
    pub count: i64,
    #[serde(rename = "DeviceIDs")]
    pub device_ids: List<String>,
    pub capabilities: List<List<String>>,
    pub options: Dict<String>,
}

/// A resource limit of the container's processes; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

/// A block device's share of I/O time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BlkioWeightDevice {
    pub path: String,
    pub weight: u16,
}

/// A block device's limit, in bytes or operations a second.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BlkioThrottle {
    pub path: String,
    pub rate: u64,
}

/// The body of `POST /containers/{id}/update`: zero values mean "leave as it is".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateRequest {
    pub cpu_shares: i64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub blkio_weight: u16,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: i64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub kernel_memory: i64,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    pub pids_limit: Option<i64>,
    pub restart_policy: RestartPolicy,
}
