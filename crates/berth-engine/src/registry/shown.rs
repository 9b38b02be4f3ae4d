//! What registries have shown of themselves.
//!
//! The protocol lets a registry refuse a manifest whose blobs it misses, and does not make it. One that
//! has shown that it does need not be asked for each blob of an image that it was given before: the
//! manifest alone is sent, and the registry looks. See [`super::offer`] for how it shows it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long is believed what a registry has shown.
const LIFE: Duration = Duration::from_hours(1);
/// Of how many repositories it is remembered.
const MOST: usize = 1000;

/// What the registry of a repository has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// It takes no manifest whose blobs it misses. False also where it has not been seen.
    pub(super) looks: bool,
    /// It asks nobody who they are.
    pub(super) is_open: bool,
}

/// What registries have shown, by the address of each repository: two repositories of one host may be
/// two different programs'. Of this process only, for an hour.
#[derive(Debug, Default)]
pub(super) struct Repositories(Mutex<HashMap<String, (Shown, Instant)>>);

impl Repositories {
    /// What is remembered of a repository.
    pub(super) fn of(&self, address: &str) -> Option<Shown> {
        let known = self.lock();
        let (shown, at) = known.get(address)?;
        (at.elapsed() < LIFE).then_some(*shown)
    }

    /// Remembers.
    pub(super) fn note(&self, address: &str, shown: Shown) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.retain(|_, (_, at)| at.elapsed() < LIFE);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(address.to_owned(), (shown, Instant::now()));
    }

    /// Forgets: it did not do what was expected of it.
    pub(super) fn forget(&self, address: &str) {
        self.lock().remove(address);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Shown, Instant)>> {
        // Each change is one call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_repositories_are_remembered_as_said() {
        let known = Repositories::default();
        let shown = Shown { looks: true, is_open: false };
        for number in 0..MOST {
            known.note(&number.to_string(), shown);
        }
        assert_eq!(known.of("0"), Some(shown));
        known.note("one more", shown);
        assert_eq!((known.of("0"), known.of("one more")), (None, Some(shown)));
        known.forget("one more");
        assert_eq!(known.of("one more"), None);
    }
}
