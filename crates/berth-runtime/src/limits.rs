//! Limits: what `/containers/create` and `/update` accept, and their OCI form.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_api::container::{BlkioThrottle, HostConfig, Ulimit};
use serde_json::{Map, Value, json};

use crate::error::RuntimeError;
use crate::host::{Host, LIMITS};

const MIN_MEMORY: i64 = 6 << 20;
/// A processor's period in microseconds when `--cpus` says nothing about it.
const PERIOD: i64 = 100_000;
const NANOS: i64 = 1_000_000_000;
const SWAPPINESS_UNSET: i64 = -1;

/// Whether limits are given anew or changed: `docker update` may set swap alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new container.
    Create,
    /// A container that has limits.
    Update,
}

/// Checks the limits and takes out, with a warning, what this machine cannot do.
pub fn adapt(
    config: &mut HostConfig,
    host: &Host,
    purpose: Purpose,
) -> Result<Vec<String>, RuntimeError> {
    let mut warnings = Vec::new();
    adapt_memory(config, host, purpose, &mut warnings)?;
    adapt_cpu(config, host, &mut warnings)?;
    adapt_cpuset(config, host, &mut warnings)?;
    adapt_blkio(config, host, &mut warnings)?;
    Ok(warnings)
}

fn refuse<T>(text: &str) -> Result<T, RuntimeError> {
    Err(RuntimeError::invalid(text))
}

fn adapt_memory(
    config: &mut HostConfig,
    host: &Host,
    purpose: Purpose,
    warnings: &mut Vec<String>,
) -> Result<(), RuntimeError> {
    let can = &host.cgroups;
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if config.memory_swappiness == Some(SWAPPINESS_UNSET) {
        config.memory_swappiness = None;
    }
    if config.memory != 0 && config.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if config.memory > 0 && !can.memory_limit {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        config.memory = 0;
        config.memory_swap = -1;
    }
    if config.memory > 0 && config.memory_swap != -1 && !can.swap_limit {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
        config.memory_swap = -1;
    }
    if config.memory > 0 && config.memory_swap > 0 && config.memory_swap < config.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if config.memory == 0 && config.memory_swap > 0 && purpose == Purpose::Create {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(swappiness) = config.memory_swappiness {
        if !can.memory_swappiness {
            warn(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
            );
            config.memory_swappiness = None;
        } else if !(0..=100).contains(&swappiness) {
            return Err(RuntimeError::invalid(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            )));
        }
    }
    if config.memory_reservation > 0 && !can.memory_reservation {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        config.memory_reservation = 0;
    }
    if config.memory_reservation > 0 && config.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if config.memory > 0 && config.memory_reservation > config.memory {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if config.kernel_memory > 0 && !can.kernel_memory {
        warn(
            "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        config.kernel_memory = 0;
    }
    if config.kernel_memory > 0 && config.kernel_memory < MIN_MEMORY {
        return refuse("Minimum kernel memory limit allowed is 6MB");
    }
    adapt_kills(config, host, &mut warn);
    Ok(())
}

fn adapt_kills(config: &mut HostConfig, host: &Host, warn: &mut impl FnMut(&str)) {
    let can = &host.cgroups;
    if config.oom_kill_disable.is_some() && !can.oom_kill_disable {
        if config.oom_kill_disable == Some(true) {
            warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        config.oom_kill_disable = None;
    }
    if config.oom_kill_disable == Some(true) && config.memory == 0 {
        warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
        );
    }
    if let Some(limit) = config.pids_limit
        && !can.pids_limit
    {
        if limit > 0 {
            warn(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
            );
        }
        config.pids_limit = None;
    }
}

fn adapt_cpu(
    config: &mut HostConfig,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<(), RuntimeError> {
    let can = &host.cgroups;
    if config.nano_cpus > 0 && config.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if config.nano_cpus > 0 && config.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if config.nano_cpus > 0 && !can.cpu_cfs {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if config.nano_cpus < 0 || config.nano_cpus > i64::from(host.cpus) * NANOS {
        let cpus = host.cpus;
        return Err(RuntimeError::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if config.cpu_shares > 0 && !can.cpu_shares {
        warnings.push("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.".to_owned());
        config.cpu_shares = 0;
    }
    if config.cpu_shares < 0 {
        let shares = config.cpu_shares;
        return Err(RuntimeError::invalid(format!(
            "invalid CPU shares ({shares}): value must be a positive integer"
        )));
    }
    if (config.cpu_period != 0 || config.cpu_quota != 0) && !can.cpu_cfs {
        warnings.push(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
                .to_owned(),
        );
        config.cpu_period = 0;
        config.cpu_quota = 0;
    }
    if config.cpu_period != 0 && !(1_000..=1_000_000).contains(&config.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if config.cpu_quota > 0 && config.cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let (period, runtime) = (config.cpu_realtime_period, config.cpu_realtime_runtime);
    if (period != 0 || runtime != 0) && !can.cpu_realtime {
        return refuse("kernel does not support CPU real-time scheduler");
    }
    if period != 0 && runtime > period {
        return refuse("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    if config.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
        config.cpu_percent = 0;
    }
    Ok(())
}

fn adapt_cpuset(
    config: &mut HostConfig,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<(), RuntimeError> {
    let can = &host.cgroups;
    let wanted = !config.cpuset_cpus.is_empty() || !config.cpuset_mems.is_empty();
    if wanted && !can.cpuset {
        warnings.push(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
                .to_owned(),
        );
        config.cpuset_cpus.clear();
        config.cpuset_mems.clear();
    }
    let check = |what: &str, missing: &str, wanted: &str, there: &BTreeSet<u32>, shown: &str| {
        let Some(list) = parse_list(wanted) else {
            return Err(RuntimeError::invalid(format!(
                "Invalid value {wanted} for cpuset {what}: invalid format: {wanted}"
            )));
        };
        if list.is_subset(there) {
            return Ok(());
        }
        Err(RuntimeError::invalid(format!(
            "Requested {missing} are not available - requested {wanted}, available: {shown}"
        )))
    };
    check("cpus", "CPUs", &config.cpuset_cpus, &can.available_cpus(), &can.cpus)?;
    check("mems", "memory nodes", &config.cpuset_mems, &can.available_mems(), &can.mems)
}

fn adapt_blkio(
    config: &mut HostConfig,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<(), RuntimeError> {
    let can = &host.cgroups;
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if config.blkio_weight > 0 && !can.blkio_weight {
        warn(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        );
        config.blkio_weight = 0;
    }
    if config.blkio_weight != 0 && !(10..=1000).contains(&config.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if config.io_maximum_bandwidth != 0 {
        return refuse(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux",
        );
    }
    if config.io_maximum_iops != 0 {
        return refuse("invalid option: QoS maximum IOPs configuration is not supported on linux");
    }
    if !config.blkio_weight_device.is_empty() && !can.blkio_weight_device {
        warn(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        );
        config.blkio_weight_device.clear();
    }
    #[rustfmt::skip]
    let throttles = [
        (&mut config.blkio_device_read_bps,   can.blkio_read_bps,   "BPS Block I/O read limit",  "Block I/O BPS read limit"),
        (&mut config.blkio_device_write_bps,  can.blkio_write_bps,  "BPS Block I/O write limit", "Block I/O BPS write limit"),
        (&mut config.blkio_device_read_iops,  can.blkio_read_iops,  "IOPS Block read limit",     "Block I/O IOPS read limit"),
        (&mut config.blkio_device_write_iops, can.blkio_write_iops, "IOPS Block write limit",    "Block I/O IOPS write limit"),
    ];
    for (list, supported, what, discarded) in throttles {
        if !list.is_empty() && !supported {
            warn(&format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded."
            ));
            list.clear();
        }
    }
    Ok(())
}

/// The OCI `resources` of adapted limits, without the device rules.
pub fn to_oci(config: &HostConfig) -> Result<Value, RuntimeError> {
    let mut resources = Map::new();
    let mut put = |key: &str, part: Map<String, Value>| {
        if !part.is_empty() {
            resources.insert(key.to_owned(), Value::Object(part));
        }
    };
    put("memory", memory(config));
    put("cpu", cpu(config));
    put("blockIO", block_io(config)?);
    if let Some(limit) = config.pids_limit {
        put(
            "pids",
            Map::from_iter([("limit".to_owned(), json!(if limit <= 0 { -1 } else { limit }))]),
        );
    }
    Ok(Value::Object(resources))
}

fn insert(part: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    part.insert(key.to_owned(), value.into());
}

fn memory(config: &HostConfig) -> Map<String, Value> {
    let mut part = Map::new();
    let numbers = [
        ("limit", config.memory),
        ("reservation", config.memory_reservation),
        ("swap", config.memory_swap),
        ("kernel", config.kernel_memory),
        ("kernelTCP", config.kernel_memory_tcp),
    ];
    for (key, number) in numbers.into_iter().filter(|(_, number)| *number > 0) {
        insert(&mut part, key, number);
    }
    if let Some(swappiness) = config.memory_swappiness {
        insert(&mut part, "swappiness", swappiness);
    }
    if let Some(disable) = config.oom_kill_disable {
        insert(&mut part, "disableOOMKiller", disable);
    }
    part
}

fn cpu(config: &HostConfig) -> Map<String, Value> {
    let mut part = Map::new();
    let (mut period, mut quota) = (config.cpu_period, config.cpu_quota);
    if config.nano_cpus > 0 {
        period = PERIOD;
        // At most the number of processors, so this cannot overflow.
        quota = config.nano_cpus.saturating_mul(PERIOD) / NANOS;
    }
    let numbers = [
        ("shares", config.cpu_shares),
        ("period", period),
        ("quota", quota),
        ("realtimePeriod", config.cpu_realtime_period),
        ("realtimeRuntime", config.cpu_realtime_runtime),
    ];
    for (key, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        insert(&mut part, key, number);
    }
    for (key, list) in [("cpus", &config.cpuset_cpus), ("mems", &config.cpuset_mems)] {
        if !list.is_empty() {
            insert(&mut part, key, list.as_str());
        }
    }
    part
}

fn block_io(config: &HostConfig) -> Result<Map<String, Value>, RuntimeError> {
    let mut part = Map::new();
    if config.blkio_weight > 0 {
        insert(&mut part, "weight", config.blkio_weight);
    }
    let mut weights = Vec::new();
    for device in &config.blkio_weight_device {
        let (major, minor) = device_number(&device.path)?;
        weights.push(json!({ "major": major, "minor": minor, "weight": device.weight }));
    }
    if !weights.is_empty() {
        insert(&mut part, "weightDevice", weights);
    }
    let throttles = [
        ("throttleReadBpsDevice", &config.blkio_device_read_bps),
        ("throttleWriteBpsDevice", &config.blkio_device_write_bps),
        ("throttleReadIOPSDevice", &config.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", &config.blkio_device_write_iops),
    ];
    for (key, list) in throttles {
        let mut devices = Vec::new();
        for BlkioThrottle { path, rate } in list {
            let (major, minor) = device_number(path)?;
            devices.push(json!({ "major": major, "minor": minor, "rate": rate }));
        }
        if !devices.is_empty() {
            insert(&mut part, key, devices);
        }
    }
    Ok(part)
}

fn device_number(path: &str) -> Result<(u32, u32), RuntimeError> {
    let meta = fs::metadata(path)
        .map_err(|source| RuntimeError::Stat { path: Path::new(path).to_owned(), source })?;
    Ok((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

/// Checks `--ulimit`.
pub fn check_ulimits(limits: &[Ulimit]) -> Result<(), RuntimeError> {
    for Ulimit { name, soft, hard } in limits {
        if !LIMITS.iter().any(|(known, _)| known == name) {
            return Err(RuntimeError::invalid(format!("invalid ulimit type: {name}")));
        }
        let text = match (*soft, *hard) {
            (_, -1) => continue,
            (-1, hard) => format!("soft: -1 (unlimited), hard: {hard}"),
            (soft, hard) if soft > hard => format!("{soft} > {hard}"),
            _ => continue,
        };
        return Err(RuntimeError::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {text}"
        )));
    }
    Ok(())
}

/// The OCI `rlimits`. A limit above the daemon's own that it may not raise is lowered to it.
pub fn rlimits(limits: &[Ulimit], host: &Host, warnings: &mut Vec<String>) -> Vec<Value> {
    let unlimited = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    let mut list = Vec::new();
    for limit in limits {
        let (mut soft, mut hard) = (unlimited(limit.soft), unlimited(limit.hard));
        let own = host.hard_limits.get(limit.name.as_str()).copied().unwrap_or(u64::MAX);
        if hard > own && !host.may_raise_limits() {
            warnings.push(format!(
                "The hard limit {} of ulimit {} is above the daemon's own, which it may not raise. Lowered to {own}.",
                limit.hard, limit.name,
            ));
            hard = own;
            soft = soft.min(own);
        }
        let kind = format!("RLIMIT_{}", limit.name.to_uppercase());
        list.push(json!({ "type": kind, "soft": soft, "hard": hard }));
    }
    list
}

/// The out-of-memory score that the container can have.
pub fn oom_score_adj(config: &HostConfig, host: &Host, warnings: &mut Vec<String>) -> i32 {
    let wanted = config.oom_score_adj;
    let mut score = wanted;
    if wanted < host.oom_score_adj && !host.may_raise_limits() {
        score = host.oom_score_adj;
        if wanted != 0 {
            warnings.push(format!(
                "The oom score adj {wanted} is below the daemon's own, which it may not lower. Raised to {score}."
            ));
        }
    }
    i32::try_from(score.clamp(-1000, 1000)).unwrap_or(0)
}

/// Reads `0-2,5`; empty is nothing. `None` when it is malformed.
pub(crate) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    /// More than any machine has; keeps `0-4294967295` from filling the memory.
    const MOST: u32 = 1 << 16;
    let mut list = BTreeSet::new();
    if text.is_empty() {
        return Some(list);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        list.extend(first..=last);
    }
    Some(list)
}

#[cfg(test)]
mod tests;
