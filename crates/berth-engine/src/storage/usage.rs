//! What images, containers and volumes take on the disk, for questions that must not wait for a walk
//! through all of it.
//!
//! The last measurement is the answer, with its age. Whoever asks has a new one made in the background
//! when the last is old, and waits for it for a moment. A walk that takes long is repeated less often.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_fs::allocated::{Meter, Sameness};
use berth_types::{Timestamp, kind};

use crate::engine::Engine;
use crate::error::EngineError;

/// How long a question waits for a measurement.
const MOMENT: Duration = Duration::from_millis(250);
/// The youngest measurement that is replaced by a new one.
const YOUNG: Duration = Duration::from_secs(30);
/// A walk is repeated after so many times its own length.
const REST: u32 = 20;

/// Bytes allocated on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// Of image layers; `None` where the driver's layers are no directories.
    pub(crate) images: Option<u64>,
    /// Of containers' layers, logs included.
    pub(crate) containers: Option<u64>,
    /// Of volumes.
    pub(crate) volumes: u64,
    /// Of volumes, by Docker's rule.
    pub(crate) volumes_size: u64,
}

/// A measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) allocated: Allocated,
    pub(crate) at: Timestamp,
    ended: Instant,
    pub(crate) took: Duration,
}

impl Measured {
    pub(super) fn age(&self) -> Duration {
        self.ended.elapsed()
    }
}

/// The last measurement, and whether one is under way.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    known: Mutex<Known>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<Measured>,
    under_way: bool,
}

impl Usage {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller has to see to a measurement now, as a [`Walk`].
    fn begin(&self, now: Instant) -> bool {
        let mut known = self.known();
        let is_young = known.last.is_some_and(|last| {
            now.saturating_duration_since(last.ended) < (last.took * REST).max(YOUNG)
        });
        if known.under_way || is_young {
            return false;
        }
        known.under_way = true;
        true
    }

    /// The last measurement, after waiting a moment for one that is under way; and whether one is.
    fn wait(&self, deadline: Instant) -> (Option<Measured>, bool) {
        let mut known = self.known();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !known.under_way || left.is_zero() {
                return (known.last, known.under_way);
            }
            let waited = self.done.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A measurement that ends with this, even when it panics.
struct Walk<'a> {
    usage: &'a Usage,
    begun: Instant,
    allocated: Option<Allocated>,
}

impl<'a> Walk<'a> {
    fn new(usage: &'a Usage, begun: Instant) -> Self {
        Self { usage, begun, allocated: None }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        let ended = Instant::now();
        let took = ended.saturating_duration_since(self.begun);
        let at = Timestamp::now();
        let mut known = self.usage.known();
        known.under_way = false;
        if let Some(allocated) = self.allocated {
            known.last = Some(Measured { allocated, at, ended, took });
        }
        drop(known);
        self.usage.done.notify_all();
    }
}

impl Engine {
    /// What is known of allocated bytes; and whether a measurement is under way.
    pub(super) fn allocated(&self) -> (Option<Measured>, bool) {
        let usage = self.upkeep().usage();
        let engine = self.clone();
        if usage.begin(Instant::now()) {
            tokio::task::spawn_blocking(move || {
                let mut walk = Walk::new(engine.upkeep().usage(), Instant::now());
                match engine.measure_allocated() {
                    Ok(allocated) => walk.allocated = Some(allocated),
                    Err(error) => {
                        tracing::warn!(error = kind::chain(&error), "disk usage not measured");
                    }
                }
            });
        }
        usage.wait(Instant::now() + MOMENT)
    }

    /// The last measurement, however old; none is begun.
    pub(crate) fn last_measured(&self) -> Option<Measured> {
        self.upkeep().usage().known().last
    }

    fn measure_allocated(&self) -> Result<Allocated, EngineError> {
        let driver = self.layers().driver();
        let sameness = if driver.name() == "btrfs" { Sameness::Snapshot } else { Sameness::Inode };
        let mut meter = Meter::new(sameness);
        let mut add =
            |path: &std::path::Path| meter.tree(path).map_err(EngineError::io("measure", path));
        let mut allocated = Allocated::default();
        if let Some(upkeep) = driver.upkeep() {
            let (mut images, mut containers) = (0, 0);
            for layer in self.layers().list()? {
                images += add(&upkeep.place(&layer.layer))?;
                images += add(&self.layers().files_of(&layer.chain))?;
            }
            for rw in self.layers().list_rw()?.iter().filter(|rw| rw.driver == driver.name()) {
                containers += add(&upkeep.place(&rw.mount.init()))?;
                containers += add(&upkeep.place(&rw.mount))?;
                containers += add(&self.container_dir(&rw.container))?;
            }
            (allocated.images, allocated.containers) = (Some(images), Some(containers));
        }
        for volume in self.volumes().list(&berth_volumes::VolumeFilter::default())? {
            allocated.volumes += add(&volume.mountpoint)?;
            allocated.volumes_size += self.volumes().usage(&volume)?.unwrap_or(0);
        }
        Ok(allocated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_repeated_when_it_is_old_and_ends_when_it_panics() {
        let usage = Usage::default();
        let begun = Instant::now();
        assert!(usage.begin(begun));
        let mut walk = Walk::new(&usage, begun);
        assert!(!usage.begin(begun), "one at a time");
        assert!(usage.wait(begun).1);
        walk.allocated = Some(Allocated { volumes: 7, ..Allocated::default() });
        drop(walk);
        let (last, under_way) = usage.wait(begun + MOMENT);
        assert_eq!((last.unwrap().allocated.volumes, under_way), (7, false));
        assert!(!usage.begin(begun + YOUNG / 2), "it is young");
        let later = Instant::now() + YOUNG * 2;
        assert!(usage.begin(later));
        let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _walk = Walk::new(&usage, later);
            panic!("a bug in the walk");
        }));
        assert!(walked.is_err());
        let (last, under_way) = usage.wait(begun);
        assert_eq!((last.unwrap().allocated.volumes, under_way), (7, false), "the last stands");
    }
}
