//! What a container uses, once or each second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_api::daemon::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    ThrottlingData,
};
use berth_api::json::List;
use berth_runtime::cgroup::Usage;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::registry::Container;
use super::watcher::Watcher;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::pieces::ByteStream;

/// How often a stream has a new document.
const PERIOD: Duration = Duration::from_secs(1);
/// Clock ticks a second in `/proc/stat`; fixed on Linux.
const NANOS_PER_TICK: u64 = 10_000_000;

impl Engine {
    /// Documents of a container's use, one JSON line each: a stream, or one. The processor figures
    /// of one document are compared with those of a second before, unless `one_shot`.
    pub async fn stats(
        &self,
        name: &str,
        stream: bool,
        one_shot: bool,
    ) -> Result<ByteStream, EngineError> {
        let container = self.registry().find(name)?;
        let (sender, receiver) = mpsc::channel(1);
        let engine = self.clone();
        let mut before = Stats::default();
        if !stream && !one_shot {
            before = engine.measure_use(&container).await?;
        }
        tokio::spawn(async move {
            let mut ends = container.watch_ends();
            if !stream && !one_shot && container.state().is_running() {
                tokio::time::sleep(PERIOD).await;
            }
            loop {
                let mut now = match engine.measure_use(&container).await {
                    Ok(now) => now,
                    Err(error) => {
                        let told = sender.send(Err(error)).await;
                        return drop(told);
                    }
                };
                now.preread = before.read;
                now.precpu_stats = std::mem::take(&mut before.cpu_stats);
                let mut line = serde_json::to_vec(&now).expect("numbers and text have a JSON form");
                line.push(b'\n');
                if sender.send(Ok(Bytes::from(line))).await.is_err() || !stream {
                    return;
                }
                before = now;
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = sender.closed() => return,
                    removed = ends.wait_for(|ends| ends.removed) => return drop(removed),
                }
            }
        });
        Ok(receiver)
    }

    async fn measure_use(&self, container: &Arc<Container>) -> Result<Stats, EngineError> {
        let engine = self.clone();
        let container = Arc::clone(container);
        blocking(move || engine.measure_use_now(&container)).await
    }

    fn measure_use_now(&self, container: &Container) -> Result<Stats, EngineError> {
        let state = container.state();
        let mut stats = Stats {
            name: format!("/{}", container.name()),
            id: container.id().to_string(),
            ..Stats::default()
        };
        if !state.is_running() {
            return Ok(stats);
        }
        let path = cgroup_path(&Watcher::of(self, container.id()))?;
        let usage = self.host().cgroups.usage(&path);
        stats.read = usage.read_at;
        stats.pids_stats = PidsStats { current: usage.pids, limit: usage.pids_limit.unwrap_or(0) };
        stats.blkio_stats = blkio(&usage);
        stats.cpu_stats = cpu(&usage, self.host().cpus);
        stats.memory_stats = memory(&usage);
        stats.networks = network(state.pid);
        Ok(stats)
    }
}

/// The cgroup that the container's spec names.
pub(crate) fn cgroup_path(watcher: &Watcher) -> Result<String, EngineError> {
    let file = watcher.bundle().join("config.json");
    let text = std::fs::read(&file).map_err(EngineError::io("read", &file))?;
    let spec: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| EngineError::io("read", &file)(error.into()))?;
    let path = spec.pointer("/linux/cgroupsPath").and_then(serde_json::Value::as_str);
    Ok(path.unwrap_or_default().to_owned())
}

fn cpu(usage: &Usage, cpus: u32) -> CpuStats {
    let [periods, throttled_periods, throttled_time] = usage.throttling;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: usage.cpu_total,
            percpu_usage: Vec::new(),
            usage_in_kernelmode: usage.cpu_kernel,
            usage_in_usermode: usage.cpu_user,
        },
        system_cpu_usage: system_cpu(),
        online_cpus: cpus,
        throttling_data: ThrottlingData { periods, throttled_periods, throttled_time },
    }
}

fn memory(usage: &Usage) -> MemoryStats {
    MemoryStats {
        usage: usage.memory,
        max_usage: usage.memory_max.unwrap_or(0),
        stats: usage.memory_stats.clone(),
        failcnt: usage.memory_failures.unwrap_or(0),
        limit: usage.memory_limit.unwrap_or_else(berth_sys::system::total_memory),
    }
}

fn blkio(usage: &Usage) -> BlkioStats {
    let mut entries = Vec::with_capacity(usage.io.len() * 2);
    for device in &usage.io {
        for (op, value) in [("read", device.read), ("write", device.write)] {
            let (major, minor) = (device.major, device.minor);
            entries.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    let io_service_bytes_recursive =
        if entries.is_empty() { List::null() } else { List::from(entries) };
    BlkioStats { io_service_bytes_recursive, ..BlkioStats::default() }
}

/// Nanoseconds that all processors of the machine have worked or idled.
fn system_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // The guest times at the end are counted in the user times already.
    let ticks: u64 =
        first.split_whitespace().skip(1).take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks * NANOS_PER_TICK
}

/// The counters of the interfaces that a container's init sees, but for its own loopback.
fn network(pid: i32) -> BTreeMap<String, NetworkStats> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut networks = BTreeMap::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let name = name.trim();
        let numbers: Vec<u64> =
            counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if name == "lo" || numbers.len() < 12 {
            continue;
        }
        let stats = NetworkStats {
            rx_bytes: numbers[0],
            rx_packets: numbers[1],
            rx_errors: numbers[2],
            rx_dropped: numbers[3],
            tx_bytes: numbers[8],
            tx_packets: numbers[9],
            tx_errors: numbers[10],
            tx_dropped: numbers[11],
        };
        networks.insert(name.to_owned(), stats);
    }
    networks
}
