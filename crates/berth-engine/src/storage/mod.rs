//! Looking after what is below images and containers: checks, repairs, backups, sizes.

mod backup;
mod check;
mod devices;
mod freeze;
mod info;
mod note;
mod pool;
mod repair;
mod restore;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

pub use backup::BackupRequest;
pub use pool::ExtendRequest;
pub use repair::Changes;
pub use restore::{Restored, restore_backup};

use crate::error::EngineError;
pub(crate) use usage::Allocated;
use usage::Usage;

/// What looking after the storage keeps in memory.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// Held by the one repair or backup that may run.
    running: Arc<Mutex<()>>,
    /// How much was found and is not mended.
    problems: AtomicU64,
    usage: Usage,
}

impl Upkeep {
    /// Keeps other repairs and backups from running.
    fn begin(&self) -> Result<OwnedMutexGuard<()>, EngineError> {
        Arc::clone(&self.running).try_lock_owned().or(Err(EngineError::UpkeepRunning))
    }

    fn usage(&self) -> &Usage {
        &self.usage
    }

    pub(crate) fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    pub(crate) fn set_problems(&self, count: u64) {
        self.problems.store(count, Ordering::Relaxed);
    }

    /// What `docker info` says of problems.
    pub(crate) fn warning(&self) -> Option<String> {
        let said = match self.problems() {
            0 => return None,
            1 => "1 problem was".to_owned(),
            count => format!("{count} problems were"),
        };
        Some(format!(
            "WARNING: {said} found in the storage: `berth storage check` shows, and `berth storage \
             repair` mends"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_said_until_they_are_mended() {
        let upkeep = Upkeep::default();
        let rest =
            "found in the storage: `berth storage check` shows, and `berth storage repair` mends";
        for (count, expected) in [
            (0, None),
            (1, Some(format!("WARNING: 1 problem was {rest}"))),
            (7, Some(format!("WARNING: 7 problems were {rest}"))),
            (0, None),
        ] {
            upkeep.set_problems(count);
            assert_eq!(upkeep.warning(), expected);
        }
    }

    #[test]
    fn one_runs_at_a_time() {
        let upkeep = Upkeep::default();
        let first = upkeep.begin().unwrap();
        let error = upkeep.begin().unwrap_err();
        assert_eq!(error.to_string(), "a repair or a backup of the storage is already running");
        drop(first);
        upkeep.begin().unwrap();
    }
}
