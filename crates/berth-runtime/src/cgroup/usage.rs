//! What a container's control groups have counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use berth_types::Timestamp;

use super::{Cgroups, Mode};

/// Bytes read from and written to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct IoBytes {
    pub major: u64,
    pub minor: u64,
    pub read: u64,
    pub write: u64,
}

/// One reading of all counters. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// When it was read.
    pub read_at: Timestamp,
    /// Processor time of all processes.
    pub cpu_total: u64,
    /// Of it, in the kernel.
    pub cpu_kernel: u64,
    /// Of it, in programs.
    pub cpu_user: u64,
    /// Periods in which a quota was watched, periods it was exhausted in, and time spent waiting.
    pub throttling: [u64; 3],
    /// Bytes in use, caches included.
    pub memory: u64,
    /// The most there ever were in use; version 1 only.
    pub memory_max: Option<u64>,
    /// The limit; `None` without one.
    pub memory_limit: Option<u64>,
    /// How often the limit was hit; version 1 only.
    pub memory_failures: Option<u64>,
    /// The kernel's own break-down.
    pub memory_stats: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Their limit; `None` without one.
    pub pids_limit: Option<u64>,
    /// By device.
    pub io: Vec<IoBytes>,
}

/// Version 1 writes "no limit" as the largest multiple of the page size.
const NO_LIMIT_V1: u64 = 0x7fff_ffff_ffff_0000;

pub(super) fn read(cgroups: &Cgroups, path: &str, now: Timestamp) -> Usage {
    let mut usage = Usage { read_at: now, ..Usage::default() };
    let dir = |controller: &str| cgroups.dir(controller, path);
    if let Some(dir) = dir("pids") {
        usage.pids = number(&dir, "pids.current").unwrap_or(0);
        usage.pids_limit = number(&dir, "pids.max");
    }
    if cgroups.mode == Mode::V2 {
        if let Some(dir) = dir("") {
            read_v2(&dir, &mut usage);
        }
        return usage;
    }
    if let Some(dir) = dir("cpuacct") {
        usage.cpu_total = number(&dir, "cpuacct.usage").unwrap_or(0);
        usage.cpu_user = number(&dir, "cpuacct.usage_user").unwrap_or(0);
        usage.cpu_kernel = number(&dir, "cpuacct.usage_sys").unwrap_or(0);
    }
    if let Some(dir) = dir("cpu") {
        let stat = pairs(&dir, "cpu.stat");
        usage.throttling = ["nr_periods", "nr_throttled", "throttled_time"]
            .map(|key| stat.get(key).copied().unwrap_or(0));
    }
    if let Some(dir) = dir("memory") {
        usage.memory = number(&dir, "memory.usage_in_bytes").unwrap_or(0);
        usage.memory_max = number(&dir, "memory.max_usage_in_bytes");
        usage.memory_failures = number(&dir, "memory.failcnt");
        usage.memory_limit =
            number(&dir, "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT_V1);
        usage.memory_stats = pairs(&dir, "memory.stat");
    }
    if let Some(dir) = dir("blkio") {
        usage.io = io_v1(&text(&dir, "blkio.throttle.io_service_bytes_recursive"));
    }
    usage
}

fn read_v2(dir: &Path, usage: &mut Usage) {
    let stat = pairs(dir, "cpu.stat");
    let micros = |key: &str| stat.get(key).copied().unwrap_or(0).saturating_mul(1000);
    usage.cpu_total = micros("usage_usec");
    usage.cpu_user = micros("user_usec");
    usage.cpu_kernel = micros("system_usec");
    let count = |key: &str| stat.get(key).copied().unwrap_or(0);
    usage.throttling = [count("nr_periods"), count("nr_throttled"), micros("throttled_usec")];
    usage.memory = number(dir, "memory.current").unwrap_or(0);
    usage.memory_limit = number(dir, "memory.max");
    usage.memory_stats = pairs(dir, "memory.stat");
    usage.io = io_v2(&text(dir, "io.stat"));
}

fn io_v1(text: &str) -> Vec<IoBytes> {
    let mut devices: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(device), Some(op), Some(bytes)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Some(device), Ok(bytes)) = (parse_device(device), bytes.parse::<u64>()) else {
            continue;
        };
        let entry = devices.entry(device).or_default();
        match op {
            "Read" => entry.0 += bytes,
            "Write" => entry.1 += bytes,
            _ => {}
        }
    }
    devices
        .into_iter()
        .map(|((major, minor), (read, write))| IoBytes { major, minor, read, write })
        .collect()
}

fn io_v2(text: &str) -> Vec<IoBytes> {
    let parse = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = parse_device(device)?;
        let value = |key: &str| {
            rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.parse().ok()).unwrap_or(0)
        };
        Some(IoBytes { major, minor, read: value("rbytes="), write: value("wbytes=") })
    };
    text.lines().filter_map(parse).collect()
}

fn parse_device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// `None` when it is missing or says `max`.
fn number(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file).trim().parse().ok()
}

fn pairs(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    text(dir, file)
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_counters_of_both_versions() {
        let expected = [IoBytes { major: 8, minor: 0, read: 5, write: 7 }];
        assert_eq!(
            io_v1("8:0 Read 5\n8:0 Write 7\n8:0 Sync 1\n8:0 Total 12\nTotal 12\n"),
            expected
        );
        assert_eq!(io_v2("8:0 rbytes=5 wbytes=7 rios=1 wios=2 dbytes=0\n"), expected);
        assert_eq!(io_v2("8:1\n"), []);
    }
}
