//! Destroying removed layers, at once or when their last user is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use berth_types::kind::chain;

use super::set::{Set, step};
use crate::StorageError;

/// How long after a failed attempt the next one is made: often somebody is just about to end.
const SOON: Duration = Duration::from_secs(1);
/// The longest pause between two.
const PERIOD: Duration = Duration::from_secs(30);

impl Set {
    /// Destroys the removed layers that nobody uses and nothing is a clone of. Says whether some are left that
    /// somebody uses. Goes on after a failure and gives the first.
    pub(super) fn reap(&self) -> Result<bool, StorageError> {
        let _one_at_a_time = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut trash = self.trash();
        if trash.is_empty() {
            return Ok(false);
        }
        let listing = self.read()?;
        let dataset = &self.dataset;
        // What is a clone of what; removed or not.
        let mut clones: Vec<(String, String)> = listing
            .into_iter()
            .filter_map(|(name, found)| Some((format!("{dataset}/{name}"), found.origin?)))
            .collect();
        let (mut first, mut left) = (None, false);
        // Those that the last one is a clone of come after it.
        while let Some(name) = next(&trash, &clones) {
            trash.remove(&name);
            match self.runner.zfs(&["destroy", "-r", &name]) {
                Err(error) if error.is_busy() => {
                    tracing::debug!(error = chain(&error), name, "a removed layer is in use");
                    left = true;
                }
                // Of somebody else's making: nobody says when they go.
                Err(error) if error.has_clones() => {
                    tracing::debug!(error = chain(&error), name, "a removed layer has clones");
                }
                Err(error) if !error.is_gone() => {
                    first.get_or_insert(StorageError::from(error));
                }
                _ => {
                    clones.retain(|(clone, _)| *clone != name);
                    self.forget_trash(&name);
                }
            }
            step("zfs.reap.destroyed");
        }
        first.map_or(Ok(left), Err)
    }

    /// Tries again from time to time, until nothing is left that somebody used.
    pub(super) fn reap_later(this: &Arc<Self>) {
        let set = Arc::downgrade(this);
        let again = move || {
            let mut pause = SOON;
            loop {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PERIOD);
                let Some(set) = set.upgrade() else { return };
                match set.reap() {
                    Ok(false) => return,
                    Ok(true) => {}
                    Err(error) => tracing::warn!(error = chain(&error), "cannot destroy layers"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("zfs-removals".to_owned()).spawn(again);
        if let Err(error) = thread {
            tracing::warn!(%error, "removed layers that are in use wait for the next removal");
        }
    }
}

/// One that nothing is a clone of.
fn next(trash: &BTreeSet<String>, clones: &[(String, String)]) -> Option<String> {
    let is_free = |name: &&String| !clones.iter().any(|(_, origin)| origin == *name);
    trash.iter().find(is_free).cloned()
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn what_has_clones_waits_for_them() {
        let text = str::to_owned;
        let trash = ["a", "b", "c"].map(text).into();
        let mut clones = vec![(text("b"), text("a")), (text("c"), text("b"))];
        assert_eq!(next(&trash, &clones), Some(text("c")));
        clones.pop();
        assert_eq!(next(&trash, &clones), Some(text("b")));
        clones.push((text("layer"), text("c")));
        clones.push((text("layer"), text("b")));
        assert_eq!(next(&trash, &clones), None);
    }
}
