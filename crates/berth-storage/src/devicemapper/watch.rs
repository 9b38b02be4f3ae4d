//! Watching the pool: the kernel's events, and a look from time to time for how fast it fills.
//!
//! A thread waits for events of the device-mapper, which the pool gives when it runs out of something
//! or has no more left than its low-water mark. It holds neither the driver nor what the pool lies on,
//! and ends when the driver does.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_types::kind::chain;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::error::human;
use super::forecast::Rate;
use super::mapper::Mapper;
use super::options::Levels;
use super::pool::{self, METADATA_BLOCK, Mode, Status};
use crate::StorageError;
use crate::error::io_at;
use crate::thin_pool::{Level, PoolUsage, Space, Tell};

/// The longest pause between two looks, and the one while somebody should see to the pool.
const PAUSE: Duration = Duration::from_mins(1);
const SHORT_PAUSE: Duration = Duration::from_secs(10);
/// How much below its mark a level ends, in thousandths: else it would come and go.
const SLACK: u64 = 10;

/// What is known of how full a pool is.
#[derive(Debug)]
pub(super) struct Watch {
    mapper: Arc<Mapper>,
    pool: String,
    levels: Levels,
    below: Below,
    known: Mutex<Known>,
    tell: Mutex<Listener>,
    wake: OwnedFd,
    has_ended: AtomicBool,
}

/// The directory whose file system holds data and metadata, where they are files.
#[derive(Debug, Clone, Default)]
pub(super) struct Below {
    pub(super) data: Option<PathBuf>,
    pub(super) metadata: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Known {
    data: Rate,
    metadata: Rate,
    level: Level,
}

#[derive(Default)]
struct Listener(Option<Tell>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.0.is_some()).finish()
    }
}

impl Watch {
    pub(super) fn new(
        mapper: Arc<Mapper>,
        pool: String,
        levels: Levels,
        below: Below,
    ) -> Result<Self, StorageError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).map_err(io_at("watch", berth_sys::dm::path(&pool)))?;
        let (known, tell, has_ended) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Ok(Self { mapper, pool, levels, below, known, tell, wake, has_ended })
    }

    /// Looks from now on whenever something happens to the pool.
    pub(super) fn start(this: &Arc<Self>) {
        let watch = Arc::clone(this);
        let thread = std::thread::Builder::new().name("dm-watch".to_owned());
        if let Err(error) = thread.spawn(move || watch.run()) {
            tracing::warn!(%error, "the thin pool is not watched");
        }
    }

    /// Has the thread look at once.
    pub(super) fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            tracing::debug!(%error, "the watch is not woken");
        }
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn set_listener(&self, tell: Tell) {
        *self.tell.lock().unwrap_or_else(PoisonError::into_inner) = Listener(Some(tell));
    }

    /// Looks at the pool; whoever listens is told when its level is another one than before.
    pub(super) fn look(&self) -> Result<(Status, PoolUsage), StorageError> {
        let status = match pool::status(&self.mapper, &self.pool) {
            Ok(status) => status,
            Err(error) => {
                // It goes with the driver.
                if !self.has_ended.load(Ordering::Acquire) {
                    self.note_failure(&error);
                }
                return Err(error);
            }
        };
        let mut data = space(status.used, status.total, status.block, self.below.data.as_ref())?;
        let mut metadata = space(
            status.metadata_used,
            status.metadata_total,
            METADATA_BLOCK,
            self.below.metadata.as_ref(),
        )?;
        let now = Instant::now();
        let (before, level) = {
            let mut known = self.known();
            data.seconds_to_full = known.data.note(now, &data);
            metadata.seconds_to_full = known.metadata.note(now, &metadata);
            let level = level(
                self.levels,
                status.mode,
                data.permille().max(metadata.permille()),
                known.level,
            );
            (std::mem::replace(&mut known.level, level), level)
        };
        let (name, block) = (self.pool.clone(), status.block);
        let usage = PoolUsage { name, block, level, data, metadata };
        if level != before {
            log(before, &usage);
            self.say(&usage);
        }
        Ok((status, usage))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Numbers alone: whatever panicked left them usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, error: &StorageError) {
        let before = std::mem::replace(&mut self.known().level, Level::Failed);
        if before != Level::Failed {
            tracing::error!(error = chain(error), pool = self.pool, "the thin pool has failed");
            let (data, metadata) = (Space::default(), Space::default());
            let name = self.pool.clone();
            self.say(&PoolUsage { name, block: 0, level: Level::Failed, data, metadata });
        }
    }

    fn say(&self, usage: &PoolUsage) {
        if let Listener(Some(tell)) = &*self.tell.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(usage);
        }
    }

    fn run(&self) {
        while !self.has_ended.load(Ordering::Acquire) {
            // Before the look: what happens from here on ends the wait.
            let is_armed = self.mapper.arm().is_ok();
            let pause = match self.look() {
                Ok((_, usage)) => pause(&usage),
                Err(_) => PAUSE,
            };
            if let Err(error) = self.wait(is_armed, pause) {
                tracing::warn!(%error, "the thin pool is no longer watched");
                return;
            }
        }
    }

    fn wait(&self, is_armed: bool, pause: Duration) -> std::io::Result<()> {
        let mut waited_for = vec![PollFd::new(&self.wake, PollFlags::IN)];
        // A kernel before 4.13 has no such events.
        if is_armed {
            waited_for.push(PollFd::from_borrowed_fd(self.mapper.as_fd(), PollFlags::IN));
        }
        let seconds = i64::try_from(pause.as_secs()).unwrap_or(1);
        match poll(&mut waited_for, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(&self.wake, &mut [0; 8]) {
            Err(rustix::io::Errno::AGAIN) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn space(
    used: u64,
    total: u64,
    block: u64,
    below: Option<&PathBuf>,
) -> Result<Space, StorageError> {
    let mut room = total.saturating_sub(used) * block;
    if let Some(dir) = below {
        room = room.min(free_below(dir)?);
    }
    Ok(Space { used: used * block, total: total * block, room, seconds_to_full: None })
}

/// Until the next look: sooner the sooner the pool is full.
fn pause(usage: &PoolUsage) -> Duration {
    let longest = if usage.level == Level::Normal { PAUSE } else { SHORT_PAUSE };
    let soonest = [usage.data.seconds_to_full, usage.metadata.seconds_to_full];
    let soonest = soonest.into_iter().flatten().min();
    let soon = soonest.map_or(longest, |seconds| Duration::from_secs((seconds / 10).max(1)));
    soon.min(longest)
}

fn level(levels: Levels, mode: Mode, permille: u64, before: Level) -> Level {
    match mode {
        Mode::OutOfSpace | Mode::OutOfMetadata => return Level::Full,
        Mode::ReadOnly | Mode::NeedsCheck => return Level::Failed,
        Mode::Writes => {}
    }
    let reaches = |percent: Option<u64>, level: Level| {
        let slack = if before >= level { SLACK } else { 0 };
        percent.is_some_and(|percent| permille + slack >= percent * 10)
    };
    if permille >= 1000 {
        Level::Full
    } else if reaches(levels.stop, Level::Stop) {
        Level::Stop
    } else if reaches(levels.warn, Level::Warning) {
        Level::Warning
    } else {
        Level::Normal
    }
}

fn log(before: Level, usage: &PoolUsage) {
    let (what, space) = usage.fuller();
    let (pool, level) = (&usage.name, usage.level.name());
    let (used, room) = (human(space.used), human(space.room));
    let full_in = space.seconds_to_full.map_or_else(|| "unknown".to_owned(), duration);
    match usage.level {
        Level::Normal => tracing::info!(pool, used, room, "the thin pool has room again"),
        Level::Warning if before > Level::Warning => {
            tracing::info!(pool, used, room, "the thin pool takes new layers again");
        }
        Level::Warning => {
            tracing::warn!(pool, what, used, room, full_in, "the thin pool fills");
        }
        Level::Stop => {
            tracing::error!(
                pool,
                what,
                used,
                room,
                full_in,
                "the thin pool is nearly full and takes no new layers: remove something, or make \
                 it larger"
            );
        }
        Level::Full | Level::Failed => {
            tracing::error!(pool, what, used, room, level, "the thin pool takes no writes");
        }
    }
}

/// As people say it.
pub(super) fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// Free bytes of the file system that the loop files lie on.
fn free_below(dir: &PathBuf) -> Result<u64, StorageError> {
    let info = rustix::fs::statvfs(dir).map_err(io_at("look at", dir))?;
    Ok(info.f_bfree * info.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_begins_at_its_mark_and_ends_below_it() {
        let levels = Levels { warn: Some(80), stop: Some(90) };
        let none = Levels { warn: None, stop: None };
        #[rustfmt::skip]
        let table = [
            // levels mode            permille before          after
            (levels, Mode::Writes,        799,  Level::Normal,  Level::Normal),
            (levels, Mode::Writes,        800,  Level::Normal,  Level::Warning),
            (levels, Mode::Writes,        791,  Level::Warning, Level::Warning),
            (levels, Mode::Writes,        789,  Level::Warning, Level::Normal),
            (levels, Mode::Writes,        900,  Level::Normal,  Level::Stop),
            (levels, Mode::Writes,        895,  Level::Stop,    Level::Stop),
            (levels, Mode::Writes,        895,  Level::Warning, Level::Warning),
            (levels, Mode::Writes,        889,  Level::Stop,    Level::Warning),
            (levels, Mode::Writes,        1000, Level::Normal,  Level::Full),
            (levels, Mode::OutOfSpace,    999,  Level::Stop,    Level::Full),
            (levels, Mode::OutOfMetadata, 100,  Level::Normal,  Level::Full),
            (levels, Mode::NeedsCheck,    100,  Level::Normal,  Level::Failed),
            (none,   Mode::Writes,        999,  Level::Normal,  Level::Normal),
            (none,   Mode::Writes,        1000, Level::Normal,  Level::Full),
        ];
        for (levels, mode, permille, before, after) in table {
            let got = level(levels, mode, permille, before);
            assert_eq!(got, after, "{levels:?} {mode:?} {permille} {before:?}");
        }
    }

    #[test]
    fn looks_are_more_frequent_the_sooner_it_is_full() {
        let usage = |level, seconds_to_full| PoolUsage {
            name: String::new(),
            block: 65536,
            level,
            data: Space { seconds_to_full, ..Space::default() },
            metadata: Space::default(),
        };
        #[rustfmt::skip]
        let table = [
            (Level::Normal,  None,       60),
            (Level::Normal,  Some(9000), 60),
            (Level::Normal,  Some(100),  10),
            (Level::Normal,  Some(3),    1),
            (Level::Warning, None,       10),
        ];
        for (level, to_full, seconds) in table {
            assert_eq!(pause(&usage(level, to_full)).as_secs(), seconds, "{level:?} {to_full:?}");
        }
    }

    #[test]
    fn durations_are_said_in_one_unit() {
        #[rustfmt::skip]
        let table = [
            (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7199, "1 hour"),
            (172_799, "47 hours"), (172_800, "2 days"),
        ];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
