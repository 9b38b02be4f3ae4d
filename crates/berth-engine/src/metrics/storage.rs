//! Figures of the storage: how full it is, when it will be, and what is wrong with it.

use std::path::Path;

use berth_storage::{Level, PoolUsage, Space};
use prometheus_client::registry::Registry;

use super::{Labels, by, gauge, gauges, known};
use crate::engine::Engine;
use crate::storage::Allocated;

impl Engine {
    pub(super) fn storage_metrics(&self, registry: &mut Registry) {
        file_system(registry, &self.config().data_root);
        if let Some(count) = known("images", self.images().count()) {
            gauge(registry, "berth_storage_images", "Images", count);
        }
        if let Some(measured) = self.last_measured() {
            allocated(registry, measured.allocated);
            let help = "When the disk was last measured, in seconds since 1970";
            gauge(registry, "berth_storage_measured_timestamp_seconds", help, measured.at.unix());
        }
        let help = "Problems that were found in the storage and are not mended";
        gauge(registry, "berth_storage_problems", help, self.upkeep().problems());
        if let Some(pool) = self.layers().driver().thin_pool() {
            match known("figures of the thin pool", pool.usage()) {
                Some(usage) => thin_pool(registry, &usage),
                None => level(registry, &pool.layout().name, Level::Failed),
            }
        }
    }
}

fn file_system(registry: &mut Registry, root: &Path) {
    let stat = rustix::fs::statvfs(root).map_err(std::io::Error::from);
    let Some(stat) = known("figures of the file system", stat) else { return };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    #[rustfmt::skip]
    let table = [
        ("berth_storage_filesystem_size_bytes",  "Size of the file system of the data root", bytes(stat.f_blocks)),
        ("berth_storage_filesystem_free_bytes",  "What can still be written to it",          bytes(stat.f_bavail)),
        ("berth_storage_filesystem_inodes",      "Inodes of it",                             stat.f_files),
        ("berth_storage_filesystem_free_inodes", "Inodes that are not in use",               stat.f_favail),
    ];
    for (name, help, value) in table {
        gauge(registry, name, help, value);
    }
}

fn allocated(registry: &mut Registry, allocated: Allocated) {
    let all = [
        ("images", allocated.images),
        ("containers", allocated.containers),
        ("volumes", Some(allocated.volumes)),
    ];
    let there = all.into_iter().filter_map(|(of, bytes)| Some((of, bytes?)));
    let help = "What is allocated on the disk, as last measured";
    gauges(registry, "berth_storage_allocated_bytes", help, by("of", there));
}

/// Takes one number of a kind of room.
type Of = fn(&Space) -> Option<u64>;

fn thin_pool(registry: &mut Registry, usage: &PoolUsage) {
    let spaces = [("data", &usage.data), ("metadata", &usage.metadata)];
    #[rustfmt::skip]
    let table: [(&str, &str, Of); 4] = [
        ("berth_storage_pool_size_bytes",      "Size of the thin pool",                              |space| Some(space.total)),
        ("berth_storage_pool_used_bytes",      "What is in use of it",                               |space| Some(space.used)),
        ("berth_storage_pool_room_bytes",      "What can still be written to it",                    |space| Some(space.room)),
        ("berth_storage_pool_full_in_seconds", "When it is full, if it goes on as in the last minutes; missing while it does not grow", |space| space.seconds_to_full),
    ];
    for (name, help, of) in table {
        let lines = spaces.iter().filter_map(|(kind, space)| {
            let labels = vec![("pool", usage.name.clone()), ("of", (*kind).to_owned())];
            Some((labels, of(space)?))
        });
        gauges(registry, name, help, lines);
    }
    level(registry, &usage.name, usage.level);
}

/// The level as one line for each that there is, the present one being 1.
fn level(registry: &mut Registry, pool: &str, now: Level) {
    let line = |level: Level| -> (Labels, u64) {
        let labels = vec![("pool", pool.to_owned()), ("level", level.name().to_owned())];
        (labels, u64::from(level == now))
    };
    let help =
        "How the thin pool is: from `stop` on it takes no new layers, from `full` on no writes";
    gauges(registry, "berth_storage_pool_level", help, Level::ALL.map(line));
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn a_pool_that_fills_says_when_it_is_full() {
        let data = Space { used: 60, total: 100, room: 40, seconds_to_full: None };
        let metadata = Space { used: 9, total: 10, room: 1, seconds_to_full: Some(90) };
        let name = "docker-thinpool".to_owned();
        let usage = PoolUsage { name, block: 65536, level: Level::Stop, data, metadata };
        let mut registry = Registry::default();
        thin_pool(&mut registry, &usage);
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        let expected = [
            "berth_storage_pool_full_in_seconds{pool=\"docker-thinpool\",of=\"metadata\"} 90",
            "berth_storage_pool_level{pool=\"docker-thinpool\",level=\"failed\"} 0",
            "berth_storage_pool_level{pool=\"docker-thinpool\",level=\"full\"} 0",
            "berth_storage_pool_level{pool=\"docker-thinpool\",level=\"normal\"} 0",
            "berth_storage_pool_level{pool=\"docker-thinpool\",level=\"stop\"} 1",
            "berth_storage_pool_level{pool=\"docker-thinpool\",level=\"warning\"} 0",
            "berth_storage_pool_room_bytes{pool=\"docker-thinpool\",of=\"data\"} 40",
            "berth_storage_pool_room_bytes{pool=\"docker-thinpool\",of=\"metadata\"} 1",
            "berth_storage_pool_size_bytes{pool=\"docker-thinpool\",of=\"data\"} 100",
            "berth_storage_pool_size_bytes{pool=\"docker-thinpool\",of=\"metadata\"} 10",
            "berth_storage_pool_used_bytes{pool=\"docker-thinpool\",of=\"data\"} 60",
            "berth_storage_pool_used_bytes{pool=\"docker-thinpool\",of=\"metadata\"} 9",
        ];
        assert_eq!(lines, expected);
    }
}
